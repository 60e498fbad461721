#!/usr/bin/env bash
# From a clone on Debian 12 to an answer: installs what is missing, fetches the model, builds, starts a cluster (router,
# two target ranks, a draft worker) on loopback, streams an answer, says what happened, stops everything.
#
#   ./quickstart.sh [--keep] [--prompt TEXT]
#     --keep         leave the cluster serving until Ctrl-C, and say how to talk to it
#     --prompt TEXT  what to ask
set -euo pipefail
cd "$(dirname "$0")"

keep=false
prompt="Explain in three sentences why the sky is blue."
while [ $# -gt 0 ]; do
  case "$1" in
    --keep) keep=true ;;
    --prompt) [ $# -ge 2 ] || { echo "quickstart: --prompt takes a text" >&2; exit 2; }; prompt=$2; shift ;;
    -h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart: unknown argument '$1'; see ./quickstart.sh --help" >&2; exit 2 ;;
  esac
  shift
done

started=$SECONDS
step() { printf '\n[%3d s] %s\n' $((SECONDS - started)) "$*" >&2; }

step "1/4 packages"
deploy/setup.sh packages
step "2/4 model"
deploy/setup.sh model
step "3/4 build (minutes the first time, seconds after)"
bazel build --show_progress --show_progress_rate_limit=5 --color=no --curses=no //:outrider 2>&1 |
  { grep --line-buffered -E '^\[|^ERROR|error:|^INFO: Build completed' || true; } >&2
binary=$(readlink -f bazel-bin/outrider)
step "4/4 cluster: router, target rank 0, target rank 1, draft worker"

model=.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
draft=deploy/models/smollm2-135m-draft-16m-q8_0.gguf
log=.cache/quickstart.log
ready=$(mktemp .cache/ready.XXXXXX)
ports=(--grpc-port 0 --metrics-port 0 --http-port 0)
if $keep; then ports=(--grpc-port 9000 --metrics-port 9100 --http-port 8000); fi
"$binary" serve "$model" --draft-model "$draft" --tensor-parallel-size 2 "${ports[@]}" >"$ready" 2>"$log" &
cluster=$!
stop() { kill "$cluster" 2>/dev/null || true; wait "$cluster" 2>/dev/null || true; rm -f "$ready"; }
trap stop EXIT
while ! grep -q '^ready ' "$ready"; do
  if ! kill -0 "$cluster" 2>/dev/null; then
    echo "quickstart: the cluster ended before it was ready; the last lines of $log:" >&2
    tail -n 20 "$log" >&2
    exit 1
  fi
  sleep 0.1
done
read -r _ grpc metrics http <"$ready"
address=${grpc#grpc=}
step "ready at $address; asking: $prompt"
echo >&2
"$binary" generate --address "$address" --chat "$prompt" --temperature 0 --max-tokens 128 --stats
step "done; logs are in $log"

if $keep; then
  cat >&2 <<HELP

The cluster serves until Ctrl-C.
  ask it    $binary generate --address $address --chat "Write a haiku about rivers." --stats
  gRPC      grpcurl -plaintext -d '{"prompt": "Once upon a time", "max_tokens": 32}' $address outrider.v1.Inference/Generate
  metrics   curl -s http://${metrics#metrics=}/metrics
HELP
  wait "$cluster"
fi
