#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/norm/device_rms_norm.h"

namespace outrider::kernels {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) RmsNormRows(const DeviceRmsNormArgs args) {
  __shared__ float warp_sums[kThreads / 32];
  device::LetLaterKernelsStart();
  device::WaitForEarlierKernels();
  const int64_t row = args.row_indices != nullptr ? args.row_indices[blockIdx.x] : blockIdx.x;
  const float4* const x = reinterpret_cast<const float4*>(args.x + row * args.x_stride);
  const int num_fours = args.size / 4;
  float squares = 0;
  for (int i = threadIdx.x; i < num_fours; i += kThreads) {
    const float4 v = x[i];
    squares = __fmaf_rn(v.x, v.x, squares);
    squares = __fmaf_rn(v.y, v.y, squares);
    squares = __fmaf_rn(v.z, v.z, squares);
    squares = __fmaf_rn(v.w, v.w, squares);
  }
  squares = device::WarpSum(squares);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = squares;
  __syncthreads();
  float total = warp_sums[0];
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) total += warp_sums[warp];
  const float mean = __fdiv_rn(total, static_cast<float>(args.size));
  const float inverse = __fdiv_rn(1.0f, __fsqrt_rn(mean + args.epsilon));
  const float4* const weight = reinterpret_cast<const float4*>(args.weight);
  uint2* const out = reinterpret_cast<uint2*>(args.out + blockIdx.x * args.out_stride);
  for (int i = threadIdx.x; i < num_fours; i += kThreads) {
    const float4 v = x[i], w = weight[i];
    out[i] = make_uint2(device::PackBf16(v.x * inverse * w.x, v.y * inverse * w.y),
                        device::PackBf16(v.z * inverse * w.z, v.w * inverse * w.w));
  }
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
