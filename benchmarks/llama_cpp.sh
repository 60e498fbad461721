#!/usr/bin/env bash
# `bazel run` starts this in the folder of its inputs.
exec python3 benchmarks/llama_cpp.py "$@"
