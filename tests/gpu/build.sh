#!/usr/bin/env bash
# Builds and links everything that is CUDA: device code, its tests and benches, and outrider itself with it. Needs the
# toolkit (CUDA_HOME or /usr/local/cuda), no GPU.
#
#   tests/gpu/build.sh [FOLDER]
#     FOLDER  is filled with the programs and the libraries they need (all but glibc, CUDA's own runtime being linked
#             in): copy it to a GPU host, with or without build tools, and run FOLDER/run.sh there
# BAZEL names another bazel.
set -euo pipefail
cd "$(dirname "$0")/../.."
bazel=${BAZEL:-bazel}

programs=(
  kernels/attention/device_attention_test
  kernels/collective/device_all_reduce_test
  kernels/embedding/device_embedding_test
  kernels/gemm/device_gemm_bench
  kernels/gemm/device_gemm_test
  kernels/norm/device_head_norm_test
  kernels/norm/device_rms_norm_test
  kernels/sampling/device_argmax_test
  kernels/sampling/device_row_edits_test
  kernels/sampling/device_row_summary_bench
  kernels/sampling/device_row_summary_test
  tests/exactness/exactness_test
  tests/integration/fault_test
  worker/model/all_reduce_device_bench
  worker/model/cuda_all_reduce_test
  worker/model/cuda_model_test
  worker/model/goldens_test
  worker/model/hf_models_test
  outrider
)
targets=()
for program in "${programs[@]}"; do
  folder_of=$(dirname "$program")
  targets+=("//${folder_of#.}:$(basename "$program")")
done
"$bazel" build --config=cuda "${targets[@]}"
[ $# -gt 0 ] || exit 0

folder=$1
bin=$("$bazel" info --config=cuda bazel-bin 2>/dev/null | tail -n 1)
mkdir -p "$folder/bin" "$folder/lib"
for program in "${programs[@]}"; do install -m 755 "$bin/$program" "$folder/bin/"; done
for program in "${programs[@]}"; do
  ldd "$bin/$program" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libnss_[a-z]*|ld-linux[^/]*)\.so' |
    xargs -r cp -Lfu -t "$folder/lib"
done
install -m 755 tests/gpu/run.sh "$folder/"
ln -sfn bin/outrider "$folder/outrider"  # where tests of processes look for it
# What tests read, at the places where they look for it.
mkdir -p "$folder/deploy/models/shapes" "$folder/worker/model/testdata" "$folder/.cache/models"
cp -u deploy/models/*.gguf "$folder/deploy/models/"
cp -ru deploy/models/shapes/. "$folder/deploy/models/shapes/"
cp -ru worker/model/testdata/*.json worker/model/testdata/hf "$folder/worker/model/testdata/"
for model in .cache/models/*.gguf; do [ ! -e "$model" ] || cp -Lu "$model" "$folder/.cache/models/"; done
du -sh "$folder"
