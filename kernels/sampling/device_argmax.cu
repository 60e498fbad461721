#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/sampling/device_argmax.h"
#include "kernels/sampling/logit_key.cuh"

namespace outrider::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kCluster = 8;  // blocks a row

__global__ void __launch_bounds__(kThreads) ArgMaxRows(const DeviceArgMaxArgs args) {
  __shared__ uint64_t warp_keys[kThreads / 32];
  __shared__ uint64_t block_keys[kCluster];  // used in the first block
  const int row = blockIdx.x / kCluster, rank = blockIdx.x % kCluster;
  device::SyncCluster();  // all blocks run: their memory may be written
  device::LetLaterKernelsStart();
  device::WaitForEarlierKernels();
  const float* const logits = args.logits + row * args.logits_stride;
  uint64_t best = 0;
  const auto offer = [&](float logit, int id) {
    const uint64_t key = device::LogitKey(logit, id);
    best = key > best ? key : best;
  };
  // Several wide loads at a time keep a thread from waiting for each.
  const bool aligned = (reinterpret_cast<uintptr_t>(logits) & 15) == 0;
  const int num_fours = aligned ? args.vocab_size / 4 : 0;
  const float4* const fours = reinterpret_cast<const float4*>(logits);
  const int thread = rank * kThreads + threadIdx.x;
  constexpr int kAtOnce = 8;
  for (int first = thread; first < num_fours; first += kAtOnce * kThreads * kCluster) {
    float4 v[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = first + k * kThreads * kCluster;
      if (i < num_fours) v[k] = fours[i];
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = first + k * kThreads * kCluster;
      if (i >= num_fours) break;
      offer(v[k].x, 4 * i);
      offer(v[k].y, 4 * i + 1);
      offer(v[k].z, 4 * i + 2);
      offer(v[k].w, 4 * i + 3);
    }
  }
  for (int id = 4 * num_fours + thread; id < args.vocab_size; id += kThreads * kCluster) offer(logits[id], id);
  const auto fold = [&] {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const uint64_t other = __shfl_xor_sync(device::kFullWarp, best, step);
      best = other > best ? other : best;
    }
  };
  fold();
  if (threadIdx.x % 32 == 0) warp_keys[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x < 32) {
    best = threadIdx.x < kThreads / 32 ? warp_keys[threadIdx.x] : 0;
    fold();
    if (threadIdx.x == 0) device::StoreRemote(device::RemoteAddress(device::SharedAddress(block_keys + rank), 0), best);
  }
  device::SyncCluster();
  if (rank != 0 || threadIdx.x >= 32) return;
  best = threadIdx.x < kCluster ? block_keys[threadIdx.x] : 0;
  fold();
  if (threadIdx.x != 0) return;
  if (args.best_logits != nullptr) args.best_logits[row] = device::LogitOfKey(best);
  const uint64_t lowest_good = device::LogitKey(-3.402823466e+38f, 0x7FFFFFFF);
  const uint64_t highest_good = device::LogitKey(3.402823466e+38f, 0);
  args.token_ids[row] = best < lowest_good || best > highest_good ? -1 : device::IdOfKey(best);
}

}  // namespace

KernelError DeviceArgMax(const DeviceArgMaxArgs& args, Stream stream) {
  if (args.num_rows < 0 || args.vocab_size < 1 || args.logits_stride < args.vocab_size) {
    return KernelError::kInvalidShape;
  }
  if (args.num_rows == 0) return KernelError::kOk;
  if (args.logits == nullptr || args.token_ids == nullptr) return KernelError::kNullPointer;
  return Launch(ArgMaxRows,
                {.grid = dim3(static_cast<unsigned>(args.num_rows) * kCluster), .block = kThreads, .cluster = kCluster},
                stream, args);
}

}  // namespace outrider::kernels
