#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/norm/device_rms_norm.cuh"
#include "kernels/norm/device_rms_norm.h"

namespace outrider::kernels {
namespace {

__global__ void __launch_bounds__(device::kNormThreads) RmsNormRows(const DeviceRmsNormArgs args) {
  __shared__ float warp_sums[device::kNormWarps];
  device::LetLaterKernelsStart();
  const float4* const weight = reinterpret_cast<const float4*>(args.weight);
  const int num_fours = args.size / 4;
  // The weights depend on no earlier kernel: they are on their way while the one ahead ends.
  float4 first_weights[device::kNormKept];
  device::LoadNormFours(weight, num_fours, threadIdx.x, first_weights);
  device::WaitForEarlierKernels();
  const int64_t row = args.row_indices != nullptr ? args.row_indices[blockIdx.x] : blockIdx.x;
  const float4* const x = reinterpret_cast<const float4*>(args.x + row * args.x_stride);
  float4 first_values[device::kNormKept];
  device::LoadNormFours(x, num_fours, threadIdx.x, first_values);
  const float squares = device::NormSquares(x, first_values, num_fours, threadIdx.x);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = squares;
  __syncthreads();
  const float inverse = device::NormInverse(warp_sums, args.size, args.epsilon);
  uint2* const out = reinterpret_cast<uint2*>(args.out + blockIdx.x * args.out_stride);
  device::NormFours(x, first_values, weight, first_weights, num_fours, threadIdx.x, inverse,
                    [&](int i, const uint2& normed) { out[i] = normed; });
}

}  // namespace

KernelError DeviceRmsNorm(const DeviceRmsNormArgs& args, Stream stream) {
  if (args.num_rows < 0 || args.size < 4 || args.size % 4 != 0 || args.x_stride % 4 != 0 || args.out_stride % 4 != 0 ||
      args.x_stride < args.size || args.out_stride < args.size) {
    return KernelError::kInvalidShape;
  }
  if (args.num_rows == 0) return KernelError::kOk;
  if (args.x == nullptr || args.weight == nullptr || args.out == nullptr) return KernelError::kNullPointer;
  return Launch(RmsNormRows, {.grid = dim3(static_cast<unsigned>(args.num_rows)), .block = device::kNormThreads},
                stream, args);
}

}  // namespace outrider::kernels
