"""Renders each overlay, validates it against Kubernetes' schemas, and holds it to the rules below.

Custom resources have no schema here: their kinds are listed, and pods within them are validated as Pods.
"""

import copy
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.realpath("WORKSPACE"))
TOOLS = os.path.join(ROOT, ".cache/tools")
sys.path.insert(0, os.path.join(TOOLS, "python"))
KUBECTL = os.path.join(TOOLS, "bin/kubectl")
if not os.path.exists(KUBECTL):
    sys.exit(f"{KUBECTL} is not there: run deploy/setup.sh tools")

import kubernetes_validate  # noqa: E402
import yaml  # noqa: E402

VERSION = "1.31"
CUSTOM = {
    "cert-manager.io/v1": {"Issuer", "Certificate"},
    "leaderworkerset.x-k8s.io/v1": {"LeaderWorkerSet"},
    "keda.sh/v1alpha1": {"ScaledObject"},
    "monitoring.coreos.com/v1": {"PodMonitor", "PrometheusRule"},
}


def render(folder):
    result = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{folder}: {result.stderr}"
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def pod_template(document):
    spec = document.get("spec", {})
    return spec.get("leaderWorkerTemplate", {}).get("workerTemplate") or spec.get("template")


def schema_problems(document):
    if document["kind"] in CUSTOM.get(document["apiVersion"], ()):
        template = pod_template(document)
        if template is None:
            return []
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **template["metadata"]},
                    "spec": template["spec"]}
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
        return []
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"no schema: {error}"]


def pod_problems(document):
    template = pod_template(document)
    if template is None:
        return []
    spec, problems = template["spec"], []

    def want(holds, what):
        if not holds:
            problems.append(what)

    security = spec.get("securityContext", {})
    want(security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0, "runs as root")
    want(security.get("seccompProfile", {}).get("type") == "RuntimeDefault", "has no seccomp profile")
    want(spec.get("automountServiceAccountToken") is False, "has a token of the API server")
    want(spec.get("enableServiceLinks") is False, "gets variables of every service")
    grace = spec.get("terminationGracePeriodSeconds", 30)
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for container in spec["containers"]:
        security = container.get("securityContext", {})
        want(security.get("readOnlyRootFilesystem") is True, "can write its root file system")
        want(security.get("allowPrivilegeEscalation") is False, "may escalate privileges")
        want(security.get("capabilities", {}).get("drop") == ["ALL"], "has capabilities")
        want("memory" in container.get("resources", {}).get("limits", {}), "has no limit of memory")
        ports = {port["containerPort"] for port in container.get("ports", [])}
        env = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
        # The kubelet has no certificate to show on a port of links.
        by_http = "OUTRIDER_LINK_CERTIFICATE" in env and container["args"][0] != "router"
        for probe, service, page in (("startupProbe", "liveness", "/livez"), ("readinessProbe", "readiness", "/readyz"),
                                     ("livenessProbe", "liveness", "/livez")):
            asked = container.get(probe, {})
            if by_http:
                want(asked.get("httpGet", {}).get("path") == page, f"{probe} does not ask {page}")
            else:
                grpc = asked.get("grpc", {})
                want(grpc.get("service") == service and grpc.get("port") in ports, f"{probe} does not ask {service} by gRPC")
        secured = {"OUTRIDER_LINK_CERTIFICATE", "OUTRIDER_LINK_PRIVATE_KEY", "OUTRIDER_LINK_AUTHORITIES"} <= set(env)
        # `serve` keeps its links to sockets of its own.
        want(container["args"][0] == "serve" or secured != (env.get("OUTRIDER_ALLOW_INSECURE_LINKS") == "true"),
             "has links that are neither secured nor allowed to be insecure, or both")
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])[1]
        drain = int(env.get("OUTRIDER_DRAIN_TIMEOUT_MS", "25000")) / 1000
        want(int(sleep) + drain < grace, f"is killed after {grace} s, before it drained")
        want({mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, "mounts what is no volume")
        want("/tmp" in {mount["mountPath"] for mount in container.get("volumeMounts", [])}, "has no /tmp to write")
    return problems


def selector_problems(documents):
    """Services, budgets and policies select pods there are; what is scaled is there."""
    pods = [pod_template(document)["metadata"].get("labels", {}) for document in documents if pod_template(document)]
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    problems = []
    for document in documents:
        spec = document.get("spec", {})
        selector = {"Service": spec.get("selector"),
                    "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels"),
                    "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels")}.get(document["kind"])
        who = f"{document['kind']} {document['metadata']['name']}"
        if selector and not any(selector.items() <= labels.items() for labels in pods):
            problems.append(f"{who} selects no pod")
        target = spec.get("scaleTargetRef")
        if target and (target["kind"], target["name"]) not in names:
            problems.append(f"{who} scales what is not there")
    ids = [(document["kind"], document["metadata"]["name"]) for document in documents]
    return problems + [f"{one} is there twice" for one in set(ids) if ids.count(one) > 1]


def problems_of(documents):
    found = []
    for document in documents:
        who = f"{document['kind']} {document['metadata']['name']}"
        found += [f"{who}: {problem}" for problem in schema_problems(document) + pod_problems(document)]
    return found + selector_problems(documents)


def check_settings(documents):
    """Commands and variables are those of the program: it says so itself."""
    known = {}
    for command in ("router", "target", "draft", "serve"):
        known[command] = subprocess.run(["./outrider", command, "--help"], capture_output=True, text=True, check=True).stdout
    for document in documents:
        template = pod_template(document)
        for container in template["spec"]["containers"] if template else []:
            command, *args = container["args"]
            flags = [arg for arg in args if arg.startswith("-")]
            flags += ["--" + entry["name"][len("OUTRIDER_"):].lower().replace("_", "-")
                      for entry in container.get("env", []) if entry["name"].startswith("OUTRIDER_")]
            for flag in flags:
                assert flag + " " in known[command] or flag + "," in known[command], f"outrider {command} knows no {flag}"


def check_the_checks(documents):
    """Each of these faults must be found."""
    def container(document):
        return pod_template(document)["spec"]["containers"][0]

    def plant(change, expected):
        broken = copy.deepcopy(documents)
        for document in broken:
            if document["kind"] == "Deployment":
                change(document)
        found = problems_of(broken)
        assert any(expected in problem for problem in found), f"{expected!r} was not found: {found}"

    plant(lambda d: container(d).update(imagee="x"), "imagee")
    plant(lambda d: container(d).update(ports=[{"containerPort": "x"}]), "'x'")
    plant(lambda d: container(d)["securityContext"].update(readOnlyRootFilesystem=False), "can write its root")
    plant(lambda d: pod_template(d)["spec"]["securityContext"].update(runAsNonRoot=False), "runs as root")
    plant(lambda d: pod_template(d)["spec"].update(terminationGracePeriodSeconds=10), "before it drained")
    plant(lambda d: container(d)["livenessProbe"]["grpc"].update(service="readiness"), "livenessProbe does not ask")
    plant(lambda d: container(d)["env"].clear(), "has links that are neither")
    plant(lambda d: pod_template(d)["metadata"].update(labels={"a": "b"}), "selects no pod")
    plant(lambda d: d.update(apiVersion="apps/v9"), "no schema")


def main():
    overlays = sorted(glob.glob("deploy/kubernetes/overlays/*"))
    assert len(overlays) == 8, overlays
    with tempfile.TemporaryDirectory() as copy_of:
        # Bazel's tree is one of links, which kubectl does not follow out of the folder.
        shutil.copytree("deploy", os.path.join(copy_of, "deploy"))
        rendered = {os.path.basename(folder): render(os.path.join(copy_of, folder)) for folder in overlays}
    failed = False
    for name, documents in rendered.items():
        problems = problems_of(documents)
        failed |= bool(problems)
        print(f"{name}: {len(documents)} resources", *problems, sep="\n  ")
        check_settings(documents)
    if failed:
        sys.exit(1)
    with open(os.path.join(ROOT, "docs/kubernetes.md"), encoding="utf-8") as file:
        described = set(re.findall(r"^\| `([a-z-]+)` \|", file.read(), re.M))
    assert described == set(rendered), f"docs/kubernetes.md and overlays/ differ: {described ^ set(rendered)}"
    kinds = {document["kind"] for documents in rendered.values() for document in documents}
    for kinds_of_one in CUSTOM.values():
        assert kinds_of_one <= kinds, f"no overlay has {kinds_of_one - kinds}"
    check_the_checks(rendered["multi-node"])


if __name__ == "__main__":
    main()
