#!/usr/bin/env bash
set -euo pipefail
exec python3 examples/python/examples_test.py
