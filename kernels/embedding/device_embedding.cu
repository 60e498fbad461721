#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/embedding/device_embedding.h"

namespace outrider::kernels {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) EmbedRows(const DeviceEmbeddingArgs args) {
  device::LetLaterKernelsStart();
  device::WaitForEarlierKernels();
  const int64_t id = args.token_ids[blockIdx.x];
  const int row = static_cast<int>(id % 16);
  const int64_t first_tile = id / 16 * (args.table.padded_in_features() / 16);
  const uint32_t* const table = static_cast<const uint32_t*>(args.table.data);
  float2* const out = reinterpret_cast<float2*>(args.out + blockIdx.x * args.out_stride);
  // Pairs of neighbouring columns lie together: see DeviceMatrix.
  for (int pair = threadIdx.x; pair < args.table.in_features / 2; pair += kThreads) {
    const int column = pair % 8 * 2;
    const int lane = row % 8 * 4 + column % 8 / 2;
    const uint32_t bits = table[(first_tile + pair / 8) * 128 + lane * 4 + column / 8 * 2 + row / 8];
    const float2 value = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(bits));
    out[pair] = make_float2(value.x * args.scale, value.y * args.scale);
  }
}

}  // namespace

KernelError DeviceEmbedding(const DeviceEmbeddingArgs& args, Stream stream) {
  if (args.num_rows < 0 || args.table.in_features < 1 || args.table.in_features % 2 != 0 || args.out_stride % 2 != 0 ||
      args.out_stride < args.table.in_features) {
    return KernelError::kInvalidShape;
  }
  if (args.num_rows == 0) return KernelError::kOk;
  if (args.table.data == nullptr || args.token_ids == nullptr || args.out == nullptr) return KernelError::kNullPointer;
  return Launch(EmbedRows, {.grid = dim3(static_cast<unsigned>(args.num_rows)), .block = kThreads}, stream, args);
}

}  // namespace outrider::kernels
