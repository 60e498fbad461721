// Products of many rows (prompts, large batches): wgmma m64n128k16, weights from registers as the M operand, rows of x
// from shared memory as N. A block computes 128 features of 128 rows: two warpgroups that multiply (64 features each)
// and one warp that keeps a ring of copies ahead of them.
//
// The order of addition is that of the streaming kernel: K is walked segment by segment, each segment's sum is added to
// the total.
#include <cuda.h>

#include "kernels/common/cuda_launch.h"
#include "kernels/gemm/device_gemm_shared.cuh"
#include "kernels/gemm/device_gemm_tensor_map.h"
#include "kernels/gemm/device_gemm_wgmma.cuh"

namespace outrider::kernels::device {
namespace {

constexpr int kBlockFeatures = 128;
constexpr int kBlockRows = 128;
constexpr int kRowTilesPerBlock = kBlockFeatures / 16;
constexpr int kMultiplyThreads = 256;
constexpr int kThreads = kMultiplyThreads + 128;  // the producer has a warpgroup, so that it can give up registers
constexpr int kWeightBytes = kRowTilesPerBlock * kTilesPerChunk * kTileBytes;  // 16 KiB a stage
constexpr int kXBytes = kBlockRows * kChunkColumns * 2;                        // 16 KiB
constexpr int kStageBytes = kWeightBytes + kXBytes;
constexpr int kNumStages = 6;
// The epilogue's exchange takes the ring's place: [row 128][feature 128] and 4 to spread the banks.
constexpr int kExchangeStride = kBlockFeatures + 4;
static_assert(kBlockRows * kExchangeStride * 4 <= kNumStages * kStageBytes);
constexpr int kBytes = kNumStages * kStageBytes + 1024 + 128;  // copies with 128-byte swizzle want 1024-byte alignment

template <DeviceEpilogue kEpilogue>
__global__ void __launch_bounds__(kThreads, 1)
    TiledMatMul(const MatMulView view, const __grid_constant__ CUtensorMap x_map) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* const shared = unaligned + (1024 - (SharedAddress(unaligned) & 1023)) % 1024;
  const uint32_t full = SharedAddress(shared + kNumStages * kStageBytes);
  const uint32_t empty = full + kNumStages * 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_row = static_cast<int>(blockIdx.x) * kBlockRows;
  const int first_tile = static_cast<int>(blockIdx.y) * kRowTilesPerBlock;
  const int num_chunks = view.num_k_tiles / kTilesPerChunk;

  if (threadIdx.x == 0) {
    for (int i = 0; i < kNumStages; ++i) {
      InitBarrier(full + i * 8, 1);
      InitBarrier(empty + i * 8, kMultiplyThreads / 32);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  LetLaterKernelsStart();
  WaitForEarlierKernels();

  if (warp >= kMultiplyThreads / 32) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp != kMultiplyThreads / 32) return;
    const int num_tiles = min(kRowTilesPerBlock, view.num_row_tiles - first_tile);
    int i = 0;
    for (int segment = 0; segment < kNumSegments; ++segment) {
      for (int chunk = segment; chunk < num_chunks; chunk += kNumSegments, ++i) {
        const uint32_t stage = i % kNumStages;
        const uint32_t to = SharedAddress(shared + stage * kStageBytes);
        if (i >= kNumStages) WaitBarrier(empty + stage * 8, (i / kNumStages & 1) ^ 1);
        if (lane == 0) {
          ArriveExpecting(full + stage * 8, num_tiles * kTilesPerChunk * kTileBytes + kXBytes);
          CopyTile(to + kWeightBytes, &x_map, chunk * kChunkColumns, first_row, full + stage * 8);
        }
        __syncwarp();
        if (lane < num_tiles) {
          const int64_t from =
              (static_cast<int64_t>(first_tile + lane) * view.num_k_tiles + chunk * kTilesPerChunk) * kTileBytes;
          CopyBulk(to + lane * kTilesPerChunk * kTileBytes, view.w + from, kTilesPerChunk * kTileBytes,
                   full + stage * 8);
        }
      }
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  float total[64], acc[64];
  const uint32_t tile_offset = warp * kTilesPerChunk * kTileBytes + lane * 16;  // warp's row tile in a stage
  int i = 0;
  const auto load = [&](uint4(&a)[kTilesPerChunk]) {
    const uint32_t stage = i % kNumStages;
    WaitBarrier(full + stage * 8, i / kNumStages & 1);
    const uint8_t* const from = shared + stage * kStageBytes + tile_offset;
#pragma unroll
    for (int j = 0; j < kTilesPerChunk; ++j) a[j] = *reinterpret_cast<const uint4*>(from + j * kTileBytes);
  };
  const auto multiply = [&](const uint4(&a)[kTilesPerChunk]) {
    const uint64_t x = RowsDescriptor(SharedAddress(shared + i % kNumStages * kStageBytes + kWeightBytes));
    FenceMultiply();
#pragma unroll
    for (int j = 0; j < kTilesPerChunk; ++j)
      WarpgroupMultiplyAdd(acc, a[j], x + j * 2);  // 32 bytes of K, in units of 16
    CommitMultiply();
  };
  const auto release = [&](int index) {
    if (lane == 0) Arrive(empty + index % kNumStages * 8);
  };
  for (int segment = 0; segment < kNumSegments; ++segment) {
#pragma unroll
    for (int e = 0; e < 64; ++e) acc[e] = 0.0f;
    PinAccumulators(acc);
    // Two sets of weight registers in turn: one is loaded while the other is multiplied with.
    uint4 even[kTilesPerChunk], odd[kTilesPerChunk];
    int left = segment < num_chunks ? (num_chunks - segment + kNumSegments - 1) / kNumSegments : 0;
    bool pending = false;
    while (left > 0) {
      load(even);
      multiply(even);
      WaitMultiply<1>();
      if (pending) release(i - 1);
      pending = true;
      ++i;
      if (--left == 0) break;
      load(odd);
      multiply(odd);
      WaitMultiply<1>();
      release(i - 1);
      ++i;
      --left;
    }
    WaitMultiply<0>();
    PinAccumulators(acc);
    if (pending) release(i - 1);
#pragma unroll
    for (int e = 0; e < 64; ++e) total[e] = segment == 0 ? acc[e] : total[e] + acc[e];
  }

  // Outputs change from lanes that hold columns of rows to threads that store along rows. The ring is free once both
  // warpgroups have read their last stage.
  SyncNamed(1, kMultiplyThreads);
  float* const exchange = reinterpret_cast<float*>(shared);
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int e = 0; e < 64; ++e) {
    const int row = e / 4 * 8 + t * 2 + e % 2, feature = warp * 16 + g + e % 4 / 2 * 8;
    exchange[row * kExchangeStride + feature] = total[e];
  }
  SyncNamed(1, kMultiplyThreads);
  const int num_rows = min(kBlockRows, view.num_rows - first_row);
  if constexpr (kEpilogue == DeviceEpilogue::kSiluMul) {
    for (int o = threadIdx.x; o < num_rows * (kBlockFeatures / 2); o += kMultiplyThreads) {
      const int row = o / (kBlockFeatures / 2), pair = o % (kBlockFeatures / 2) / 16, feature = o % 16;
      if (first_tile + pair * 2 >= view.num_row_tiles) continue;
      const float* const from = exchange + row * kExchangeStride + pair * 32 + feature;
      StoreGated(view, first_row + row, first_tile / 2 + pair, feature, from[0], from[16]);
    }
  } else {
    for (int o = threadIdx.x; o < num_rows * kBlockFeatures; o += kMultiplyThreads) {
      const int row = o / kBlockFeatures, feature = o % kBlockFeatures;
      StoreOutput<kEpilogue>(view, first_row + row, first_tile * 16 + feature,
                             exchange[row * kExchangeStride + feature]);
    }
  }
}

template <DeviceEpilogue kEpilogue>
KernelError LaunchEpilogue(const MatMulView& view, const CUtensorMap& x_map, Stream stream) {
  const dim3 grid(static_cast<unsigned>((view.num_rows + kBlockRows - 1) / kBlockRows),
                  static_cast<unsigned>((view.num_row_tiles + kRowTilesPerBlock - 1) / kRowTilesPerBlock));
  return Launch(TiledMatMul<kEpilogue>, {.grid = grid, .block = kThreads, .shared_bytes = kBytes}, stream, view, x_map);
}

}  // namespace

KernelError LaunchTiledMatMul(const MatMulView& view, DeviceEpilogue epilogue, Stream stream) {
  CUtensorMap x_map;
  const KernelError error = MakeRowsMap(view, kBlockRows, &x_map);
  if (error != KernelError::kOk) return error;
  switch (epilogue) {
    case DeviceEpilogue::kStoreBf16:
      return LaunchEpilogue<DeviceEpilogue::kStoreBf16>(view, x_map, stream);
    case DeviceEpilogue::kStoreF32:
      return LaunchEpilogue<DeviceEpilogue::kStoreF32>(view, x_map, stream);
    case DeviceEpilogue::kAddF32:
      return LaunchEpilogue<DeviceEpilogue::kAddF32>(view, x_map, stream);
    case DeviceEpilogue::kSiluMul:
      return LaunchEpilogue<DeviceEpilogue::kSiluMul>(view, x_map, stream);
  }
  return KernelError::kInvalidShape;
}

}  // namespace outrider::kernels::device
