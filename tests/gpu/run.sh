#!/usr/bin/env bash
# Runs every GPU test of a folder made by tests/gpu/build.sh FOLDER, on a host with a GPU, and lists each with its
# outcome. Ends with status 1 if one failed.
#
#   FOLDER/run.sh [--bench] [--sanitize]
#     --bench     the benches as well
#     --sanitize  the tests under compute-sanitizer too: memcheck, and racecheck of what uses shared memory
set -uo pipefail
cd "$(dirname "$0")"
export OUTRIDER_TEST_DEVICE=cuda OUTRIDER_MODEL_DIR=$PWD/.cache/models
export LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
bench=false
sanitize=false
for argument in "$@"; do
  case "$argument" in
    --bench) bench=true ;;
    --sanitize) sanitize=true ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "run: unknown argument '$argument'; see run.sh --help" >&2; exit 2 ;;
  esac
done
# NCCL is wanted only by tests of it: the loader's, or the one that a Python package brought.
if ! ldconfig -p | grep -q 'libnccl\.so\.2'; then
  nccl=$(python3 -c 'import nvidia.nccl; print(list(nvidia.nccl.__path__)[0] + "/lib")' 2>/dev/null || true)
  [ -z "$nccl" ] || export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$nccl
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || { echo "run: no GPU is seen by nvidia-smi" >&2; exit 2; }

mkdir -p logs
failed=0
# run NAME COMMAND...: shows the outcome; the log of what failed.
run() {
  local name=$1 started=$SECONDS
  shift
  if "$@" > "logs/$name.log" 2>&1; then
    printf 'PASSED  %-40s %4d s\n' "$name" $((SECONDS - started))
  else
    printf 'FAILED  %-40s %4d s\n' "$name" $((SECONDS - started))
    tail -n 40 "logs/$name.log"
    failed=$((failed + 1))
  fi
}
for program in bin/*_test; do
  # Of the faults on whole clusters those that a GPU can have part in; tests skip what needs more GPUs than there are.
  filter='*'
  if [ "$(basename "$program")" = fault_test ]; then filter='Faults.AStoppedOrKilledRank*'; fi
  run "$(basename "$program")" "$program" --gtest_brief=1 --gtest_filter="$filter"
done
if $sanitize; then
  for program in bin/device_*_test; do
    # Whole suites take minutes there; agreement with the reference touches every path. Products under racecheck take
    # minutes a test.
    filter='-*Bits*'
    if [ "$(basename "$program")" = device_gemm_test ]; then filter='*Gates*:*NotFinite*'; fi
    if [ "$(basename "$program")" = device_all_reduce_test ]; then filter='*EveryWay*'; fi
    for tool in memcheck racecheck; do
      run "$(basename "$program").$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 "$program" --gtest_brief=1 \
        --gtest_filter="$filter"
    done
  done
fi
if $bench; then
  for program in bin/*_bench; do
    case "$(basename "$program")" in
      all_reduce_device_bench) [ "$(nvidia-smi --list-gpus | wc -l)" -gt 1 ] || continue ;;
    esac
    run "$(basename "$program")" "$program"
    cat "logs/$(basename "$program").log"
  done
  for shape in Llama-3.2-1B Llama-3.1-8B; do
    run "bench_engine_$shape" bin/outrider bench engine --shape deploy/models/shapes/$shape --device cuda --profile \
      --batch 1,8,64
    cat "logs/bench_engine_$shape.log"
  done
fi
echo "$failed failed"
[ "$failed" = 0 ]
