#!/usr/bin/env bash
exec python3 "$(dirname "$0")/llama_cpp.py" "$@"
