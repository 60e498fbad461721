#!/usr/bin/env python3
"""What HTTP connections cost a router that does nothing else.

    bazel build //:outrider && benchmarks/http_connections.py [--program bazel-bin/outrider] [--connections 10000] [--json]

Prints the router's resident memory without and with so many open connections, a quarter of which have asked once, and the
median time of its metrics page beside them.
"""

import argparse
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import tempfile
import time


def resident_kb(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60)


def get(address, path):
    with connect(address) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while data := client.recv(1 << 16):
            received += data
    return received


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="bazel-bin/outrider")
    parser.add_argument("--connections", type=int, default=10000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.connections + 64 > hard:
        raise SystemExit(f"this process may open {hard} files: ask for fewer --connections, or raise `ulimit -n`")

    with tempfile.TemporaryDirectory() as folder:
        addresses = os.path.join(folder, "addresses")
        router = subprocess.Popen([arguments.program, "router", "--grpc-port=0", "--metrics-port=0", "--http-port=0",
                                   f"--address-file={addresses}", f"--max-http-connections={arguments.connections + 64}"],
                                  stderr=subprocess.DEVNULL)
        try:
            while not os.path.exists(addresses):
                if router.poll() is not None:
                    raise SystemExit(f"{arguments.program} router ended with {router.returncode}; run it by hand to see why")
                time.sleep(0.01)
            with open(addresses, encoding="utf-8") as file:
                address = re.search(r"http=(\S+)", file.read())[1]
            get(address, "/metrics")
            before = resident_kb(router.pid)
            clients = [connect(address) for _ in range(arguments.connections)]
            for client in clients[::4]:
                client.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            for client in clients[::4]:
                client.recv(4096)
            times_ms = []
            for _ in range(41):
                started = time.perf_counter()
                get(address, "/metrics")
                times_ms.append((time.perf_counter() - started) * 1e3)
            after = resident_kb(router.pid)
        finally:
            router.terminate()
            router.wait()
    result = {"connections": arguments.connections, "resident_before_mb": round(before / 1024, 1),
              "resident_after_mb": round(after / 1024, 1),
              "bytes_per_connection": round((after - before) * 1024 / arguments.connections),
              "metrics_median_ms": round(statistics.median(times_ms), 2)}
    print(json.dumps(result) if arguments.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
