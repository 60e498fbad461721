"""What can be said of the images and of compose.yaml without a Docker daemon: their syntax, that what they name is there, and
that settings are the program's. No image is built and nothing is started here."""

import copy
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.realpath("WORKSPACE"))
TOOLS = os.path.join(ROOT, ".cache/tools")
sys.path.insert(0, os.path.join(TOOLS, "python"))
HADOLINT = os.path.join(TOOLS, "python/bin/hadolint")
if not os.path.exists(HADOLINT):
    sys.exit(f"{HADOLINT} is not there: run deploy/setup.sh tools")

import compose_spec  # noqa: E402
import yaml  # noqa: E402

FOLDER = os.path.join(ROOT, "deploy/docker")
DOCKERFILE = os.path.join(FOLDER, "Dockerfile")
HELP = {command: subprocess.run(["./outrider", command, "--help"], capture_output=True, text=True, check=True).stdout
        for command in ("router", "target", "draft")}


def lint(dockerfile):
    result = subprocess.run([HADOLINT, "--format", "json", "-"], input=dockerfile, capture_output=True, text=True, check=False)
    return [f"{issue['code']} line {issue['line']}: {issue['message']}" for issue in json.loads(result.stdout)]


def dockerfile_problems(dockerfile):
    problems = lint(dockerfile)
    for source in re.findall(r"^COPY (?!--from)(\S+) ", dockerfile, re.M):
        if not os.path.exists(os.path.join(ROOT, source)):
            problems.append(f"copies {source}, which is not there")
    final = re.split(r"^FROM ", dockerfile, flags=re.M)
    for stage in ("cpu", "cuda"):
        text = next((part for part in final if re.match(rf"\S+ AS {stage}\n", part)), "")
        if not re.search(r"^USER [1-9][0-9]*:", text, re.M):
            problems.append(f"image {stage} runs as root")
        if "HEALTHCHECK" not in text:
            problems.append(f"image {stage} has no health check")
    return problems


def compose_problems(compose, prometheus):
    problems = []
    services = compose["services"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and not os.path.exists(os.path.join(FOLDER, source)):
                problems.append(f"{name} mounts {source}, which is not there")
        for network in service.get("networks", []):
            if network not in compose["networks"]:
                problems.append(f"{name} joins no network there is: {network}")
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                problems.append(f"{name} publishes {port} to other machines")
        if not service["image"].startswith("outrider:"):
            continue
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            problems.append(f"{name} may write or has capabilities")
        command, *args = service["command"]
        flags = [arg for arg in args if arg.startswith("--")]
        flags += ["--" + variable[len("OUTRIDER_"):].lower().replace("_", "-") for variable in service["environment"]]
        problems += [f"outrider {command} knows no {flag}" for flag in flags if f"{flag} " not in HELP[command]
                     and f"{flag}," not in HELP[command]]
    for job in prometheus["scrape_configs"]:
        for target in (target for config in job["static_configs"] for target in config["targets"]):
            host, port = target.split(":")
            service = services.get(host, {})
            if service.get("environment", {}).get("OUTRIDER_METRICS_PORT") != port:
                problems.append(f"Prometheus asks {target}, where no metrics are")
            if not set(service.get("networks", [])) & set(services["prometheus"]["networks"]):
                problems.append(f"Prometheus does not reach {target}")
    return problems


def main():
    with open(DOCKERFILE, encoding="utf-8") as file:
        dockerfile = file.read()
    with open(os.path.join(FOLDER, "compose.yaml"), encoding="utf-8") as file:
        text = file.read()
    with open(os.path.join(ROOT, "deploy/monitoring/prometheus.yml"), encoding="utf-8") as file:
        prometheus = yaml.safe_load(file)
    # As compose reads it: variables at their defaults, x- keys merged where they are named.
    compose = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(compose))
    problems = dockerfile_problems(dockerfile) + compose_problems(compose, prometheus)
    assert not problems, "\n".join(problems)

    # Each of these faults must be found.
    assert any("DL3020" in p for p in dockerfile_problems(dockerfile + "ADD x /y\n"))
    assert "image cpu runs as root" in dockerfile_problems(dockerfile.replace("USER 65532:65532", "USER 0:0"))
    assert any("is not there" in p for p in dockerfile_problems(dockerfile.replace("deploy/models/", "deploy/moduls/")))
    for wrong in ({"comand": ["x"]}, {"ports": [{"target": "x"}]}, {"networks": 3}):
        broken = copy.deepcopy(compose)
        broken["services"]["router"].update(wrong)
        try:
            compose_spec.PyCompose.from_yaml(yaml.safe_dump(broken))
        except ValueError:
            continue
        sys.exit(f"what compose does not know goes unnoticed: {wrong}")

    def plant(change, expected):
        broken = copy.deepcopy(compose)
        change(broken["services"])
        found = compose_problems(broken, prometheus)
        assert any(expected in problem for problem in found), f"{expected!r} was not found: {found}"

    plant(lambda s: s["target"]["environment"].update(OUTRIDER_METRICS_PORT="9"), "Prometheus asks target:9110")
    plant(lambda s: s["draft"]["environment"].update(OUTRIDER_NO_SUCH="1"), "outrider draft knows no --no-such")
    plant(lambda s: s["router"].update(ports=["9000:9000"]), "to other machines")
    plant(lambda s: s["draft"].update(networks=["edges"]), "joins no network")
    plant(lambda s: s["grafana"].update(volumes=["./no:/x"]), "which is not there")
    plant(lambda s: s["target"].update(read_only=False), "may write")


if __name__ == "__main__":
    main()
