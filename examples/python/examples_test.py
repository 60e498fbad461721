"""The examples, and the documents' curl lines, against a live cluster that asks for keys; and what the stock gRPC
packages see of it."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading

ROOT = os.path.dirname(os.path.realpath("WORKSPACE"))
PACKAGES = os.path.join(ROOT, ".cache/tools/python")
if not os.path.exists(os.path.join(PACKAGES, "grpc_reflection")):
    sys.exit(f"{PACKAGES} lacks packages: run deploy/setup.sh tools")
sys.path.insert(0, PACKAGES)

import grpc  # noqa: E402
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase  # noqa: E402

MODEL = "deploy/models/smollm2-135m-draft-16m-q8_0.gguf"
BOUND_S = 120


@contextlib.contextmanager
def cluster(*more):
    """The addresses of gRPC and HTTP of a running cluster."""
    command = ["./outrider", "serve", MODEL, "--threads", "1", "--grpc-port", "0", "--metrics-port", "0", "--http-port",
               "0", "--max-model-len", "512", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = threading.Timer(BOUND_S, process.kill)
        watch.start()
        try:
            line = process.stdout.readline()
            ready = re.match(r"ready grpc=(\S+) metrics=\S+ http=(\S+)", line)
            assert ready, f"the cluster did not start; it said {line!r}"
            yield ready.groups()
        finally:
            process.terminate()
            process.wait()
            watch.cancel()


def run(key, script, *arguments):
    environment = {**os.environ, "PYTHONPATH": PACKAGES, "OUTRIDER_API_KEY": key}
    return subprocess.run([sys.executable, os.path.join(ROOT, "examples/python", script), *arguments], env=environment,
                          capture_output=True, text=True, check=False, timeout=BOUND_S)


def draw_key(name, path):
    drawn = subprocess.run(["./outrider", "key", name], capture_output=True, text=True, check=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(drawn.stdout)
    return drawn.stderr.split()[-1]


def check_examples(grpc_address, http_address, key):
    sampling = ("--max-tokens", "12", "--temperature", "0")
    over_grpc = run(key, "grpc_generate.py", "--address", grpc_address, "--chat", "Hello", *sampling)
    assert over_grpc.returncode == 0, over_grpc.stderr
    assert "health: SERVING" in over_grpc.stderr and "12 tokens" in over_grpc.stderr, over_grpc.stderr
    over_http = run(key, "openai_chat.py", "--base-url", f"http://{http_address}/v1", *sampling, "Hello")
    assert over_http.returncode == 0, over_http.stderr
    assert over_http.stdout.strip() and over_http.stdout.strip() == over_grpc.stdout.strip(), (over_grpc, over_http)
    prompt = run(key, "grpc_generate.py", "--address", grpc_address, "--seed", "7", "--max-tokens", "3")
    assert prompt.returncode == 0, prompt.stderr

    for wrong in ("", key[:-1]):
        refused = run(wrong, "grpc_generate.py", "--address", grpc_address)
        assert refused.returncode == 1 and "UNAUTHENTICATED" in refused.stderr, refused
        refused = run(wrong or "none", "openai_chat.py", "--base-url", f"http://{http_address}/v1")
        assert refused.returncode == 1 and "AuthenticationError" in refused.stderr, refused


def check_stock_packages(grpc_address, key):
    with grpc.insecure_channel(grpc_address) as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
        assert {"outrider.v1.Inference", "grpc.health.v1.Health"} <= services, services
        assert "outrider.v1.Cluster" not in services, "registration is no part of the API"
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "outrider.v1.Inference", "readiness", "liveness"):
            status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=BOUND_S).status
            assert status == health_pb2.HealthCheckResponse.SERVING, (service, status)
        watched = next(health.Watch(health_pb2.HealthCheckRequest(service="readiness"), timeout=BOUND_S))
        assert watched.status == health_pb2.HealthCheckResponse.SERVING, watched

        # A call is cancelled from the client's side, and by Abort from elsewhere.
        sys.path.insert(0, ROOT)
        inference, inference_grpc = grpc.protos_and_services("proto/inference.proto")
        stub = inference_grpc.InferenceStub(channel)
        metadata = [("authorization", f"Bearer {key}")]
        request = inference.GenerateRequest(prompt="Once", max_tokens=400, ignore_eos=True)
        call = stub.Generate(request, metadata=metadata, timeout=BOUND_S)
        assert next(call).WhichOneof("event") == "started"
        call.cancel()
        call = stub.Generate(request, metadata=metadata, timeout=BOUND_S)
        name = next(call).started.request_id
        aborted = stub.Abort(inference.AbortRequest(request_ids=[name]), metadata=metadata, timeout=BOUND_S)
        try:
            ended = [response for response in call if response.WhichOneof("event") == "finished"]
            # It may have been quicker than the abort.
            assert list(aborted.aborted_request_ids) == [] and ended, (aborted, ended)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.CANCELLED and list(aborted.aborted_request_ids) == [name], error
        invalid = inference.GenerateRequest(prompt="x", temperature=-1)
        try:
            next(stub.Generate(invalid, metadata=metadata, timeout=BOUND_S))
            raise AssertionError("a negative temperature was taken")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "temperature" in error.details(), error


def check_documents(http_address, key):
    """Runs each line of curl that README.md and docs/ show of the API."""
    names = sorted(name for name in os.listdir(os.path.join(ROOT, "docs")) if name.endswith(".md"))
    documents = ["README.md"] + [f"docs/{name}" for name in names]
    lines = []
    for document in documents:
        with open(os.path.join(ROOT, document), encoding="utf-8") as file:
            lines += [(document, line.strip()) for line in file if line.startswith("curl ")]
    assert len(lines) >= 3, lines
    for document, line in lines:
        assert "http://127.0.0.1:8000/" in line, (document, line)
        command = line.replace("http://127.0.0.1:8000/", f"http://{http_address}/")
        command += f" --silent --show-error --fail -H 'Authorization: Bearer {key}'"
        result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=BOUND_S)
        assert result.returncode == 0 and '"choices"' in result.stdout, (document, line, result)


def main():
    with tempfile.TemporaryDirectory() as folder:
        keys = os.path.join(folder, "keys")
        key = draw_key("alice", keys)
        with cluster("--api-keys", keys) as (grpc_address, http_address):
            check_examples(grpc_address, http_address, key)
            check_stock_packages(grpc_address, key)
            check_documents(http_address, key)
            command = ["./outrider", "generate", "--address", grpc_address, "--prompt", "x", "--max-tokens", "2"]
            generated = subprocess.run(command, env={**os.environ, "OUTRIDER_API_KEY": key}, capture_output=True,
                                       text=True, check=False)
            assert generated.returncode == 0, generated.stderr


if __name__ == "__main__":
    main()
