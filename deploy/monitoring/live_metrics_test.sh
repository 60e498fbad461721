#!/usr/bin/env bash
set -euo pipefail
exec python3 deploy/monitoring/live_metrics_test.py "$@"
