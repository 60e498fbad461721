// Products of up to 16 rows: weights stream through a ring in shared memory, one producer warp and eight warps that
// multiply. A block owns a run of row tiles and takes two at a time past each stage of x. Recipe and its figures:
// kernels/README.md. Rows that are to be normed are normed by the warps that multiply, while the first turn of the ring
// is on its way, and stay in shared memory.
#include "kernels/common/cuda_launch.h"
#include "kernels/gemm/device_gemm_shared.cuh"
#include "kernels/norm/device_rms_norm.cuh"

namespace outrider::kernels::device {
namespace {

constexpr int kTilesAtOnce = 2;  // row tiles
constexpr int kMultiplyWarps = kTilesAtOnce * kNumSegments;
constexpr int kThreads = (kMultiplyWarps + 1) * 32;
constexpr int kChunksPerStage = 8;  // two a warp
constexpr int kStageColumns = kChunksPerStage * kChunkColumns;
constexpr int kStageTiles = kStageColumns / 16;
static_assert(kChunksPerStage % kNumSegments == 0);
constexpr int kTileStageBytes = kStageTiles * kTileBytes;
// 16 bytes between rows of x in shared memory keep eight rows' reads in different banks.
constexpr int kXRowBytes = kStageColumns * 2 + 16;

// kGroups: groups of 8 rows. kNormed: x is normed here and lies beside the ring, not in it.
template <int kGroups, bool kNormed>
struct Ring {
  static constexpr int kWeightBytes = kTilesAtOnce * kTileStageBytes;
  static constexpr int kStageBytes = kWeightBytes + (kNormed ? 0 : kGroups * 8 * kXRowBytes);
  static constexpr int kReduceBytes = kMultiplyWarps * kGroups * 128 * 4;
  static constexpr int kRowsBytes = kNormed ? kNormedBytes : 0;
  static constexpr int kBytesMax = 232448 - 128;
  static constexpr int kFit = (kBytesMax - kReduceBytes - kRowsBytes) / kStageBytes;
  static constexpr int kNumStages = kFit < 6 ? kFit : 6;
  static constexpr int kBytes = kNumStages * kStageBytes + kReduceBytes + kRowsBytes + 128;
  static_assert(kNumStages >= 2);
  static_assert(!kNormed || (kGroups == 1 && kNumStages == 6 && kNormedRowsMax <= 8));
};

// x of all rows, bf16, into `rows`; by the warps that multiply. `warp_sums` is free afterwards.
__device__ __forceinline__ void NormRows(const MatMulView& view, uint8_t* rows, float* warp_sums) {
  static_assert(kMultiplyWarps == kNormWarps);
  const DeviceNormedRows& norm = view.norm;
  const int num_fours = view.num_columns / 4, row_bytes = NormedRowBytes(view.num_k_tiles);
  const float4* const weight = reinterpret_cast<const float4*>(norm.weight);
  float4 first_weights[kNormKept];  // these depend on no earlier kernel
  LoadNormFours(weight, num_fours, threadIdx.x, first_weights);
  for (int i = threadIdx.x; i < view.num_rows * (view.num_k_tiles * 4 - num_fours); i += kNormThreads) {
    const int padding = view.num_k_tiles * 4 - num_fours;
    *reinterpret_cast<uint2*>(rows + i / padding * row_bytes + (num_fours + i % padding) * 8) = {};
  }
  WaitForEarlierKernels();
  const auto row_of = [&](int row) {
    const int64_t index = norm.row_indices != nullptr ? norm.row_indices[row] : row;
    return reinterpret_cast<const float4*>(norm.x + index * norm.x_stride);
  };
  float4 first_values[kNormedRowsMax][kNormKept];
#pragma unroll
  for (int row = 0; row < kNormedRowsMax; ++row) {
    if (row < view.num_rows) LoadNormFours(row_of(row), num_fours, threadIdx.x, first_values[row]);
  }
#pragma unroll
  for (int row = 0; row < kNormedRowsMax; ++row) {
    if (row >= view.num_rows) break;
    const float squares = NormSquares(row_of(row), first_values[row], num_fours, threadIdx.x);
    if (threadIdx.x % 32 == 0) warp_sums[row * kNormWarps + threadIdx.x / 32] = squares;
  }
  SyncNamed(1, kNormThreads);
#pragma unroll
  for (int row = 0; row < kNormedRowsMax; ++row) {
    if (row >= view.num_rows) break;
    const float inverse = NormInverse(warp_sums + row * kNormWarps, view.num_columns, norm.epsilon);
    uint2* const to = reinterpret_cast<uint2*>(rows + row * row_bytes);
    NormFours(row_of(row), first_values[row], weight, first_weights, num_fours, threadIdx.x, inverse,
              [&](int i, const uint2& normed) { to[i] = normed; });
  }
  SyncNamed(1, kNormThreads);
}

template <int kGroups, DeviceEpilogue kEpilogue, bool kNormed>
__global__ void __launch_bounds__(kThreads, 1) StreamingMatMul(const MatMulView view) {
  using R = Ring<kGroups, kNormed>;
  extern __shared__ __align__(128) uint8_t shared[];
  uint8_t* const reduce_bytes = shared + R::kNumStages * R::kStageBytes;
  float* const reduce = reinterpret_cast<float*>(reduce_bytes);  // [tile][segment][group][feature 16][row 8]
  uint8_t* const rows = reduce_bytes + R::kReduceBytes;          // kNormed: of x, NormedRowBytes apart
  const uint32_t full = SharedAddress(rows + R::kRowsBytes);
  const uint32_t empty = full + R::kNumStages * 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  // Whole pairs for gate and up, so that both halves of an output meet.
  constexpr bool kGated = kEpilogue == DeviceEpilogue::kSiluMul;
  constexpr int kUnit = kGated ? 2 : 1;
  const int64_t units = view.num_row_tiles / kUnit;
  const int first_tile = static_cast<int>(units * blockIdx.x / gridDim.x) * kUnit;
  const int end_tile = static_cast<int>(units * (blockIdx.x + 1) / gridDim.x) * kUnit;
  const int num_stages_of_k = (view.num_k_tiles + kStageTiles - 1) / kStageTiles;

  if (threadIdx.x == 0) {
    for (int i = 0; i < R::kNumStages; ++i) {
      InitBarrier(full + i * 8, 1);
      InitBarrier(empty + i * 8, kMultiplyWarps);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  LetLaterKernelsStart();

  if (warp == kMultiplyWarps) {
    // The producer. Weights of the first turn of the ring depend on no earlier kernel; x does.
    const auto each_stage = [&](auto visit) {
      int i = 0;
      for (int tile = first_tile; tile < end_tile; tile += kTilesAtOnce) {
        for (int s = 0; s < num_stages_of_k; ++s, ++i) {
          if (!visit(i, tile, s)) return;
        }
      }
    };
    const auto k_tiles_of = [&](int s) { return min(kStageTiles, view.num_k_tiles - s * kStageTiles); };
    const auto copy_weights = [&](int i, int tile, int s) {
      const uint32_t stage = i % R::kNumStages;
      const int num_tiles = min(kTilesAtOnce, end_tile - tile), k_tiles = k_tiles_of(s);
      if (lane == 0) {
        ArriveExpecting(full + stage * 8, num_tiles * k_tiles * kTileBytes +  //
                                              (kNormed ? 0 : view.num_rows * k_tiles * 32));
      }
      __syncwarp();
      if (lane < num_tiles) {
        const int64_t from = (static_cast<int64_t>(tile + lane) * view.num_k_tiles + s * kStageTiles) * kTileBytes;
        CopyBulk(SharedAddress(shared + stage * R::kStageBytes + lane * kTileStageBytes), view.w + from,
                 k_tiles * kTileBytes, full + stage * 8);
      }
    };
    const auto copy_rows = [&](int i, int s) {
      const uint32_t stage = i % R::kNumStages;
      for (int row = lane; row < view.num_rows; row += 32) {
        CopyBulk(SharedAddress(shared + stage * R::kStageBytes + R::kWeightBytes + row * kXRowBytes),
                 view.x + row * view.x_stride + s * kStageColumns, k_tiles_of(s) * 32, full + stage * 8);
      }
    };
    each_stage([&](int i, int tile, int s) {
      if (i < R::kNumStages) copy_weights(i, tile, s);
      return i < R::kNumStages;
    });
    WaitForEarlierKernels();
    each_stage([&](int i, int tile, int s) {
      if (i >= R::kNumStages) {
        WaitBarrier(empty + i % R::kNumStages * 8, (i / R::kNumStages & 1) ^ 1);
        copy_weights(i, tile, s);
      }
      if constexpr (!kNormed) copy_rows(i, s);
      return true;
    });
    return;
  }

  // The residual stream and out are earlier kernels'.
  if constexpr (kNormed) {
    NormRows(view, rows, reduce);
  } else {
    WaitForEarlierKernels();
  }
  const int g = lane / 4, t = lane % 4;
  const int segment = warp % kNumSegments, n = warp / kNumSegments;  // n: which of the row tiles
  int i = 0;
  for (int tile = first_tile; tile < end_tile; tile += kTilesAtOnce) {
    const int num_tiles = min(kTilesAtOnce, end_tile - tile);
    float acc[kGroups][4] = {};
    for (int s = 0; s < num_stages_of_k; ++s, ++i) {
      const int stage = i % R::kNumStages;
      WaitBarrier(full + stage * 8, i / R::kNumStages & 1);
      const uint8_t* const base = shared + stage * R::kStageBytes;
#pragma unroll
      for (int turn = 0; turn < kChunksPerStage / kNumSegments; ++turn) {
        const int chunk = turn * kNumSegments + segment;
        if (s * kStageTiles + chunk * kTilesPerChunk >= view.num_k_tiles) break;
        uint4 a[kTilesPerChunk];
#pragma unroll
        for (int j = 0; j < kTilesPerChunk; ++j) {
          a[j] = *reinterpret_cast<const uint4*>(base + n * kTileStageBytes +
                                                 (chunk * kTilesPerChunk + j) * kTileBytes + lane * 16);
        }
        // Beyond the last row: any row does, nobody takes what comes of it.
        const uint8_t* const row =
            kNormed ? rows + min(lane % 8, view.num_rows - 1) * NormedRowBytes(view.num_k_tiles) + s * kStageColumns * 2
                    : base + R::kWeightBytes + lane % 8 * kXRowBytes;
        const uint32_t x = SharedAddress(row) + chunk * kChunkColumns * 2 + lane / 8 * 16;
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
#pragma unroll
          for (int half = 0; half < kTilesPerChunk / 2; ++half) {
            uint32_t b[4];
            LoadMatrices4(x + group * 8 * kXRowBytes + half * 64, b);
            const uint4 a0 = a[half * 2], a1 = a[half * 2 + 1];
            MmaBf16(acc[group], a0.x, a0.y, a0.z, a0.w, b[0], b[1]);
            MmaBf16(acc[group], a1.x, a1.y, a1.z, a1.w, b[2], b[3]);
          }
        }
      }
      __syncwarp();
      if (lane == 0) Arrive(empty + stage * 8);
    }

    constexpr int kMultiplyThreads = kMultiplyWarps * 32;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        reduce[(warp * kGroups + group) * 128 + (g + e / 2 * 8) * 8 + t * 2 + e % 2] = acc[group][e];
      }
    }
    SyncNamed(1, kMultiplyThreads);
    // Segments ascending.
    const auto sum_of = [&](int which, int row, int feature) {
      const float* const from = reduce + (which * kNumSegments * kGroups + row / 8) * 128 + feature * 8 + row % 8;
      float sum = from[0];
#pragma unroll
      for (int other = 1; other < kNumSegments; ++other) sum += from[other * kGroups * 128];
      return sum;
    };
    const int num_outputs = view.num_rows * 16 * (kGated ? 1 : num_tiles);
    for (int output = threadIdx.x; output < num_outputs; output += kMultiplyThreads) {
      const int feature = output % 16;
      if constexpr (kGated) {
        const int row = output / 16;
        StoreGated(view, row, tile / 2, feature, sum_of(0, row, feature), sum_of(1, row, feature));
      } else {
        const int row = output / 16 / num_tiles, which = output / 16 % num_tiles;
        StoreOutput<kEpilogue>(view, row, (tile + which) * 16 + feature, sum_of(which, row, feature));
      }
    }
    SyncNamed(1, kMultiplyThreads);
  }
}

int NumMultiprocessors() {
  static const int count = [] {
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device);
    return value > 0 ? value : 1;
  }();
  return count;
}

template <int kGroups, DeviceEpilogue kEpilogue, bool kNormed = false>
KernelError LaunchGroups(const MatMulView& view, Stream stream) {
  const int units = kEpilogue == DeviceEpilogue::kSiluMul ? view.num_row_tiles / 2 : view.num_row_tiles;
  const int blocks = units < NumMultiprocessors() ? units : NumMultiprocessors();
  return Launch(
      StreamingMatMul<kGroups, kEpilogue, kNormed>,
      {.grid = dim3(static_cast<unsigned>(blocks)), .block = kThreads, .shared_bytes = Ring<kGroups, kNormed>::kBytes},
      stream, view);
}

template <DeviceEpilogue kEpilogue>
KernelError LaunchEpilogue(const MatMulView& view, Stream stream) {
  static_assert(kStreamedRowsMax == 16);
  if (view.norm.x != nullptr) return LaunchGroups<1, kEpilogue, true>(view, stream);
  if (view.num_rows <= 8) return LaunchGroups<1, kEpilogue>(view, stream);
  return LaunchGroups<2, kEpilogue>(view, stream);
}

}  // namespace

KernelError LaunchStreamingMatMul(const MatMulView& view, DeviceEpilogue epilogue, Stream stream) {
  switch (epilogue) {
    case DeviceEpilogue::kStoreBf16:
      return LaunchEpilogue<DeviceEpilogue::kStoreBf16>(view, stream);
    case DeviceEpilogue::kStoreF32:
      return LaunchEpilogue<DeviceEpilogue::kStoreF32>(view, stream);
    case DeviceEpilogue::kAddF32:
      return LaunchEpilogue<DeviceEpilogue::kAddF32>(view, stream);
    case DeviceEpilogue::kSiluMul:
      return LaunchEpilogue<DeviceEpilogue::kSiluMul>(view, stream);
  }
  return KernelError::kInvalidShape;
}

}  // namespace outrider::kernels::device
