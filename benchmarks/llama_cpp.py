"""Outrider's engine beside llama.cpp: one file, the same threads, one machine, taking turns. Prints a line of JSON.

  bazel run -c opt //benchmarks:llama_cpp -- [--threads 2] [--repeats 5]

Needs llama-cpp-python (`python3 -m venv .cache/llama && .cache/llama/bin/pip install llama-cpp-python`, which builds
llama.cpp for this machine); name its interpreter with --python if it is elsewhere.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

PEER = r"""
import json, sys, time
from llama_cpp import Llama
path, threads, prompt_tokens, decode_tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
llama = Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, n_batch=512, logits_all=False, verbose=False)
ids = [(i * 7919) % 40000 + 100 for i in range(prompt_tokens)]
llama.eval(ids[:16]); llama.reset()
start = time.perf_counter(); llama.eval(ids); prompt_s = time.perf_counter() - start
llama.reset(); llama.eval(ids[:32])
start = time.perf_counter()
for i in range(decode_tokens):
    llama.eval([ids[i % len(ids)]])
decode_s = time.perf_counter() - start
print(json.dumps({"prompt_tokens_per_second": prompt_tokens / prompt_s, "decode_tokens_per_second": decode_tokens / decode_s}))
"""


def run(command):
    """The JSON object a command prints on standard output."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.decode())


def run_engine(engine, model, threads, prompt_tokens, decode_tokens):
    report = run([engine, "bench", "engine", model, "--device", "cpu", "--threads", threads, "--context", "64", "--rows", "1",
                  "--prompt", prompt_tokens, "--steps", decode_tokens, "--json"])
    return {"prompt_tokens_per_second": report["prompt"]["tokens_per_second"],
            "decode_tokens_per_second": report["decode"][0]["tokens_per_second"]}


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main():
    root = os.environ.get("BUILD_WORKSPACE_DIRECTORY", os.getcwd())
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", help="path of the outrider binary (given by Bazel)")
    parser.add_argument("--model", default=os.path.join(root, ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--python", default=os.path.join(root, ".cache/llama/bin/python"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=128)
    flags = parser.parse_args()
    if not os.path.exists(flags.python):
        sys.exit("no Python with llama-cpp-python at %s; the head of this file says how to make one" % flags.python)
    size = [str(flags.threads), str(flags.prompt_tokens), str(flags.decode_tokens)]
    names = ("prompt_tokens_per_second", "decode_tokens_per_second")
    ours, theirs = [], []
    for _ in range(flags.repeats):
        ours.append(run_engine(flags.engine, flags.model, *size))
        theirs.append(run([flags.python, "-c", PEER, flags.model] + size))
    report = {"bench": "llama_cpp", "threads": flags.threads, "repeats": flags.repeats,
              "prompt_tokens": flags.prompt_tokens, "decode_tokens": flags.decode_tokens}
    for name in names:
        report[name] = {"outrider": spread([run[name] for run in ours]), "llama_cpp": spread([run[name] for run in theirs]),
                        "ratio": spread([a[name] / b[name] for a, b in zip(ours, theirs)])}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
