#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/norm/device_rms_norm.h"

namespace outrider::kernels {
namespace {

constexpr int kThreads = 256;
// Fours of elements that a thread keeps in registers: rows of up to 4096 are read once.
constexpr int kKept = 4;

__global__ void __launch_bounds__(kThreads) RmsNormRows(const DeviceRmsNormArgs args) {
  __shared__ float warp_sums[kThreads / 32];
  device::LetLaterKernelsStart();
  const float4* const weight = reinterpret_cast<const float4*>(args.weight);
  const int num_fours = args.size / 4;
  // The weights depend on no earlier kernel: they are on their way while the one ahead ends.
  float4 first_weights[kKept];
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int i = threadIdx.x + k * kThreads;
    if (i < num_fours) first_weights[k] = weight[i];
  }
  device::WaitForEarlierKernels();
  const int64_t row = args.row_indices != nullptr ? args.row_indices[blockIdx.x] : blockIdx.x;
  const float4* const x = reinterpret_cast<const float4*>(args.x + row * args.x_stride);
  float4 first_values[kKept];
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int i = threadIdx.x + k * kThreads;
    if (i < num_fours) first_values[k] = x[i];
  }
  float squares = 0;
  const auto add = [&](const float4& v) {
    squares = __fmaf_rn(v.x, v.x, squares);
    squares = __fmaf_rn(v.y, v.y, squares);
    squares = __fmaf_rn(v.z, v.z, squares);
    squares = __fmaf_rn(v.w, v.w, squares);
  };
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    if (threadIdx.x + k * kThreads < num_fours) add(first_values[k]);
  }
  for (int i = threadIdx.x + kKept * kThreads; i < num_fours; i += kThreads) add(x[i]);
  squares = device::WarpSum(squares);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = squares;
  __syncthreads();
  float total = warp_sums[0];
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) total += warp_sums[warp];
  const float mean = __fdiv_rn(total, static_cast<float>(args.size));
  const float inverse = __fdiv_rn(1.0f, __fsqrt_rn(mean + args.epsilon));
  uint2* const out = reinterpret_cast<uint2*>(args.out + blockIdx.x * args.out_stride);
  const auto store = [&](int i, const float4& v, const float4& w) {
    out[i] = make_uint2(device::PackBf16(v.x * inverse * w.x, v.y * inverse * w.y),
                        device::PackBf16(v.z * inverse * w.z, v.w * inverse * w.w));
  };
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int i = threadIdx.x + k * kThreads;
    if (i < num_fours) store(i, first_values[k], first_weights[k]);
  }
  for (int i = threadIdx.x + kKept * kThreads; i < num_fours; i += kThreads) store(i, x[i], weight[i]);
}

}  // namespace

KernelError DeviceRmsNorm(const DeviceRmsNormArgs& args, Stream stream) {
  if (args.num_rows < 0 || args.size < 4 || args.size % 4 != 0 || args.x_stride % 4 != 0 || args.out_stride % 4 != 0 ||
      args.x_stride < args.size || args.out_stride < args.size) {
    return KernelError::kInvalidShape;
  }
  if (args.num_rows == 0) return KernelError::kOk;
  if (args.x == nullptr || args.weight == nullptr || args.out == nullptr) return KernelError::kNullPointer;
  return Launch(RmsNormRows, {.grid = dim3(static_cast<unsigned>(args.num_rows)), .block = kThreads}, stream, args);
}

}  // namespace outrider::kernels
