#!/usr/bin/env bash
# Runs architecture.py and docs.py over the source tree this test was built from.
set -euo pipefail
folder=$(dirname "$0")
python3 "$folder/architecture.py" --self-test
python3 "$folder/architecture.py" "$(dirname "$(readlink -f WORKSPACE)")"
python3 "$folder/docs.py" --self-test
python3 "$folder/docs.py" "$(dirname "$(readlink -f WORKSPACE)")"
