#!/usr/bin/env python3
"""Streams an answer over gRPC.

    pip install grpcio grpcio-tools grpcio-health-checking
    examples/python/grpc_generate.py --address 127.0.0.1:9000 --chat "Why is the sky blue?"
"""

import argparse
import os
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

# Where proto/ lies: messages and stubs are made from the .proto files when this runs.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
inference, inference_grpc = grpc.protos_and_services("proto/inference.proto")
common = grpc.protos("proto/common.proto")

ATTEMPTS = 5


def metadata():
    key = os.environ.get("OUTRIDER_API_KEY")
    return [("authorization", f"Bearer {key}")] if key else []


def request_of(arguments):
    request = inference.GenerateRequest(max_tokens=arguments.max_tokens)
    if arguments.chat:
        request.messages.add(role="user", content=arguments.chat)
    else:
        request.prompt = arguments.prompt
    if arguments.temperature is not None:
        request.temperature = arguments.temperature
    if arguments.seed is not None:
        request.seed = arguments.seed
    return request


def pushback_s(error):
    """In how many seconds the server wants to see the request again; None if never."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-retry-pushback-ms":
            return int(value) / 1000
    return None


def stream(stub, request, timeout):
    """Prints text as it comes. A refusal before any text is tried again when the server says."""
    for attempt in range(1, ATTEMPTS + 1):
        begun = False
        try:
            for response in stub.Generate(request, timeout=timeout, metadata=metadata()):
                begun = True
                event = response.WhichOneof("event")
                if event == "delta":
                    print(response.delta.text, end="", flush=True)
                elif event == "finished":
                    return response.finished
        except grpc.RpcError as error:
            wait = pushback_s(error)
            if begun or wait is None or attempt == ATTEMPTS:
                raise
            print(f"{error.details()} (attempt {attempt} of {ATTEMPTS})", file=sys.stderr)
            time.sleep(wait)
    raise AssertionError("a stream that ended without an end")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="127.0.0.1:9000")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--chat", help="a user's message, instead of --prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--timeout", type=float, default=120, help="seconds for the whole answer")
    arguments = parser.parse_args()

    with grpc.insecure_channel(arguments.address) as channel:
        try:
            health = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="outrider.v1.Inference"), timeout=10)
            print("health:", health_pb2.HealthCheckResponse.ServingStatus.Name(health.status), file=sys.stderr)
            finished = stream(inference_grpc.InferenceStub(channel), request_of(arguments), arguments.timeout)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
    usage = finished.usage
    print()
    print(f"{common.FinishReason.Name(finished.finish_reason)}: {usage.prompt_tokens} + {usage.output_tokens} tokens, "
          f"first after {finished.timing_ms.first_token:.0f} ms; {usage.accepted_tokens} of {usage.draft_tokens} draft tokens "
          f"were right in {usage.rounds} rounds", file=sys.stderr)


if __name__ == "__main__":
    main()
