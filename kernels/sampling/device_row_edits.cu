#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/sampling/device_row_edits.h"

namespace outrider::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksARow = 4;

// The operations of EditedLogit in the same order, each rounded.
__device__ __forceinline__ float Edited(const Penalties& penalties, const RowEdit& edit, float logit) {
  if (edit.has_bias != 0) logit = __fadd_rn(logit, edit.bias);
  if (edit.is_masked != 0) logit = -INFINITY;
  if (edit.is_penalized == 0) return logit;
  if (penalties.repetition != 1.0f) {
    logit = logit > 0 ? __fdiv_rn(logit, penalties.repetition) : __fmul_rn(logit, penalties.repetition);
  }
  if (edit.output_count > 0) {
    logit = __fsub_rn(logit, penalties.presence);
    logit = __fsub_rn(logit, __fmul_rn(penalties.frequency, __int2float_rn(edit.output_count)));
  }
  return logit;
}

__global__ void __launch_bounds__(kThreads) ApplyEdits(const DeviceRowEditsArgs args) {
  const EditedRow row = args.rows[blockIdx.x];
  const int first = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  RowEdit edit;
  if (first < row.num_edits) edit = args.edits[row.first_edit + first];
  device::LetLaterKernelsStart();
  device::WaitForEarlierKernels();
  float* const logits = args.logits + row.logits_row * args.logits_stride;
  for (int i = first; i < row.num_edits; i += kBlocksARow * kThreads) {
    if (i != first) edit = args.edits[row.first_edit + i];
    const float logit = logits[edit.token_id];
    args.originals[row.first_edit + i] = {logit, edit.token_id};
    args.raw_logits[row.first_edit + i] = logit;
    logits[edit.token_id] = Edited(row.penalties, edit, logit);
  }
}

__global__ void __launch_bounds__(kThreads) RestoreRows(const DeviceRowEditsArgs args) {
  const EditedRow row = args.rows[blockIdx.x];
  device::LetLaterKernelsStart();
  device::WaitForEarlierKernels();
  float* const logits = args.logits + row.logits_row * args.logits_stride;
  for (int i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x); i < row.num_edits; i += kBlocksARow * kThreads) {
    const OriginalLogit original = args.originals[row.first_edit + i];
    logits[original.token_id] = original.logit;
  }
}

KernelError Check(const DeviceRowEditsArgs& args) {
  if (args.num_rows < 0 || args.logits_stride < 1) return KernelError::kInvalidShape;
  if (args.num_rows > 0 && (args.logits == nullptr || args.rows == nullptr || args.originals == nullptr)) {
    return KernelError::kNullPointer;
  }
  return KernelError::kOk;
}

LaunchShape ShapeOf(const DeviceRowEditsArgs& args) {
  return {.grid = dim3(static_cast<unsigned>(args.num_rows), kBlocksARow), .block = kThreads};
}

}  // namespace

KernelError DeviceApplyRowEdits(const DeviceRowEditsArgs& args, Stream stream) {
  const KernelError error = Check(args);
  if (error != KernelError::kOk || args.num_rows == 0) return error;
  if (args.edits == nullptr || args.raw_logits == nullptr) return KernelError::kNullPointer;
  return Launch(ApplyEdits, ShapeOf(args), stream, args);
}

KernelError DeviceRestoreRows(const DeviceRowEditsArgs& args, Stream stream) {
  const KernelError error = Check(args);
  return error != KernelError::kOk || args.num_rows == 0 ? error : Launch(RestoreRows, ShapeOf(args), stream, args);
}

}  // namespace outrider::kernels
