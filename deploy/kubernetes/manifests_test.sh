#!/usr/bin/env bash
set -euo pipefail
exec python3 deploy/kubernetes/manifests_test.py
