#!/usr/bin/env bash
# Installs what is missing and runs every test that needs no GPU.
#
#   ./test.sh [--sanitizers] [TARGET...]
#     --sanitizers  afterwards the same under AddressSanitizer + UndefinedBehaviorSanitizer, and ThreadSanitizer
#     TARGET        Bazel targets; all of them by default
# OUTRIDER_TEST_SEED=N repeats a run of the random tests.
set -euo pipefail
cd "$(dirname "$0")"

sanitizers=false
targets=()
for argument in "$@"; do
  case "$argument" in
    --sanitizers) sanitizers=true ;;
    -h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "test: unknown argument '$argument'; see ./test.sh --help" >&2; exit 2 ;;
    *) targets+=("$argument") ;;
  esac
done
[ ${#targets[@]} -gt 0 ] || targets=(//...)

started=$SECONDS
step() { printf '[%4d s] %s\n' $((SECONDS - started)) "$*"; }
passed=0
failed=0
status=0

# Runs the tests of one configuration, shows the outcome of each, and counts it.
run_tests() {
  local log
  log=$(mktemp)
  set +e  # the status of Bazel itself is wanted, not the pipeline's
  bazel test --keep_going --color=no --curses=no --show_progress --show_progress_rate_limit=20 "$@" 2>&1 | tee "$log" |
    grep --line-buffered -avE '^(INFO: (From|Invocation|Analyzed|Found|Options|Reading)|Loading:|Analyzing:|linux-sandbox)|linux-sandbox'
  local code=${PIPESTATUS[0]}
  set -e
  local now_passed now_failed
  now_passed=$(grep -acE '^//\S+ +(\(cached\) )?PASSED' "$log" || true)
  now_failed=$(grep -acE '^//\S+ +(\(cached\) )?(FAILED|TIMEOUT|NO STATUS)' "$log" || true)
  passed=$((passed + now_passed))
  failed=$((failed + now_failed))
  if [ "$code" != 0 ] || [ "$now_failed" != 0 ] || [ "$now_passed" = 0 ]; then
    status=1
    [ "$now_failed" -gt 0 ] || failed=$((failed + 1))
  fi
  rm -f "$log"
}

step "packages"
deploy/setup.sh packages
step "model"
deploy/setup.sh model
step "tools"
deploy/setup.sh tools
step "browser"
deploy/setup.sh browser
step "tests"
run_tests "${targets[@]}"
if $sanitizers; then
  step "tests under AddressSanitizer and UndefinedBehaviorSanitizer"
  run_tests --config=asan "${targets[@]}"
  step "tests under ThreadSanitizer"
  run_tests --config=tsan "${targets[@]}"
fi
step "done"
echo "$passed passed, $failed failed"
exit "$status"
