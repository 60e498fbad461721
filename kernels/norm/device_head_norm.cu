#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/norm/device_head_norm.h"

namespace outrider::kernels {
namespace {

constexpr int kWarps = 8;

__global__ void __launch_bounds__(kWarps * 32) HeadNorm(const DeviceHeadNormArgs args) {
  device::LetLaterKernelsStart();
  device::WaitForEarlierKernels();
  const int head = blockIdx.y * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (head >= args.num_q_heads + args.num_k_heads) return;
  __nv_bfloat16* const x =
      reinterpret_cast<__nv_bfloat16*>(args.qk) + blockIdx.x * args.stride + static_cast<int64_t>(head) * args.head_dim;
  const float* const weight = head < args.num_q_heads ? args.q_weight : args.k_weight;
  float squares = 0;
  for (int i = lane; i < args.head_dim; i += 32) {
    const float value = __bfloat162float(x[i]);
    squares = __fmaf_rn(value, value, squares);
  }
  squares = device::WarpSum(squares);
  const float mean = __fdiv_rn(squares, static_cast<float>(args.head_dim));
  const float inverse = __fdiv_rn(1.0f, __fsqrt_rn(mean + args.epsilon));
  for (int i = lane; i < args.head_dim; i += 32)
    x[i] = __float2bfloat16_rn(__bfloat162float(x[i]) * inverse * weight[i]);
}

}  // namespace

KernelError DeviceHeadNorm(const DeviceHeadNormArgs& args, Stream stream) {
  const int num_heads = args.num_q_heads + args.num_k_heads;
  if (args.num_rows < 0 || args.num_q_heads < 1 || args.num_k_heads < 1 || args.head_dim < 1 ||
      args.stride < static_cast<int64_t>(num_heads) * args.head_dim) {
    return KernelError::kInvalidShape;
  }
  if (args.num_rows == 0) return KernelError::kOk;
  if (args.qk == nullptr || args.q_weight == nullptr || args.k_weight == nullptr) return KernelError::kNullPointer;
  return Launch(
      HeadNorm,
      {.grid = dim3(static_cast<unsigned>(args.num_rows), static_cast<unsigned>((num_heads + kWarps - 1) / kWarps)),
       .block = kWarps * 32},
      stream, args);
}

}  // namespace outrider::kernels
