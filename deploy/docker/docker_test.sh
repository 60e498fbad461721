#!/usr/bin/env bash
set -euo pipefail
exec python3 deploy/docker/docker_test.py
