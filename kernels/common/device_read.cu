#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/common/device_read.h"

namespace outrider::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocks = 132 * 4;  // all that an H200 runs at once
constexpr int kInFlight = 8;      // loads of 16 bytes of a thread

__global__ void __launch_bounds__(kThreads) ReadAll(const uint4* data, int64_t count, uint32_t* sum) {
  device::LetLaterKernelsStart();
  device::WaitForEarlierKernels();
  const int64_t num_threads = int64_t{gridDim.x} * kThreads;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  uint32_t part = 0;
  const auto add = [&](const uint4& v) { part += v.x + v.y + v.z + v.w; };
  for (; i + (kInFlight - 1) * num_threads < count; i += kInFlight * num_threads) {
    uint4 values[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) values[j] = __ldcs(data + i + j * num_threads);
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) add(values[j]);
  }
  for (; i < count; i += num_threads) add(__ldcs(data + i));
  part = __reduce_add_sync(device::kFullWarp, part);
  if (threadIdx.x % 32 == 0) atomicAdd(sum, part);
}

}  // namespace

KernelError DeviceRead(const DeviceReadArgs& args, Stream stream) {
  if (args.num_bytes < 0 || args.num_bytes % 16 != 0) return KernelError::kInvalidShape;
  if (args.num_bytes == 0) return KernelError::kOk;
  if (args.data == nullptr || args.sum == nullptr) return KernelError::kNullPointer;
  return Launch(ReadAll, {.grid = dim3(kBlocks), .block = kThreads}, stream, reinterpret_cast<const uint4*>(args.data),
                args.num_bytes / 16, args.sum);
}

}  // namespace outrider::kernels
