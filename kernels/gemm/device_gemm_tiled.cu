// Products of many rows (prompts, large batches): wgmma, weights from registers as the M operand, rows of x from shared
// memory as N. Blocks come in pairs, thread block clusters of two, of which each computes 128 features of a number of
// rows: two warpgroups multiply, 64 features each, and one warp keeps a ring of copies ahead of them, across outputs.
//
//   side by side  the two blocks have neighbouring features of the same rows; each copies half of the rows into both
//   by halves     the two blocks have the same outputs and two segments of K each, then exchange their sums: for
//                 matrices of too few features to give every block its own
//   in runs       side by side, for up to 64 rows of matrices of many features: each pair has a run of row tiles of
//                 equal length, since time is what the slowest reads
//
// The order of addition is that of the streaming kernel: segments of K one after the other, each added to the total.
#include <cuda.h>

#include "kernels/common/cuda_launch.h"
#include "kernels/gemm/device_gemm_shared.cuh"
#include "kernels/gemm/device_gemm_tensor_map.h"
#include "kernels/gemm/device_gemm_wgmma.cuh"

namespace outrider::kernels::device {
namespace {

constexpr int kCluster = 2;
constexpr int kBlockFeatures = 128;
constexpr int kRowTilesPerBlock = kBlockFeatures / 16;
constexpr int kGroupFeatures = 64;  // of a warpgroup
constexpr int kMultiplyThreads = 256;
constexpr int kMultiplyWarps = kMultiplyThreads / 32;
constexpr int kThreads = kMultiplyThreads + 128;  // the producer has a warpgroup, so that it can give up registers
constexpr int kChunkBytes = kTilesPerChunk * kTileBytes;  // of a row tile
constexpr int kWeightBytes = kRowTilesPerBlock * kChunkBytes;
constexpr int kBytesMax = 232448;
// Outputs change from lanes that hold columns of rows to lanes that store along rows 16 rows at a time, in two places
// by turns: [turn][warpgroup][row 16][feature 64] and 4 to spread the banks.
constexpr int kTurnRows = 16;
constexpr int kTurnStride = kGroupFeatures + 4;
constexpr int kTurnBytes = kTurnRows * kTurnStride * 4;

enum class Pairing : uint8_t { kSideBySide, kByHalves };

template <int kRows, Pairing kPairing>
struct TiledShape {
  static constexpr bool kHalved = kPairing == Pairing::kByHalves;
  static constexpr int kXBytes = kRows * kChunkColumns * 2;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kBoxRows = kHalved ? kRows : kRows / kCluster;
  // Two segments' sums of half of the rows, from the other block.
  static constexpr int kReceivedBytes = !kHalved ? 0 : 2 * kRows / 2 * kBlockFeatures * 4;
  static constexpr int kOtherBytes = 2 * 2 * kTurnBytes + kReceivedBytes + 256;
  static constexpr int kFit = (kBytesMax - 1024 - kOtherBytes) / kStageBytes;
  static constexpr int kNumStages = kFit < 8 ? kFit : 8;
  static constexpr int kBytes = kNumStages * kStageBytes + kOtherBytes + 1024;
  static_assert(kNumStages >= 4 && kBoxRows % 8 == 0 && kRows % kTurnRows == 0);
};

// What a cluster computes one after the other, and which part of it a block.
struct Outputs {
  // With `runs` a cluster has a run of row tiles for all rows, of equal length as near as `unit` allows, in passes of
  // at most two blocks' tiles: for few rows, where time is what the slowest cluster reads. Otherwise outputs of equal
  // size are dealt out in turn, rows varying fastest, so that weights are read from memory once.
  bool runs;
  int unit;        // row tiles that stay together: 2 for gate and up
  int unit_tiles;  // of a cluster's output
  int num_row_tiles, num_row_blocks, rows_a_block;
  int cluster, num_clusters;
  int first_run, end_run, num_passes;

  __device__ __forceinline__ void FindRun() {
    const int64_t units = num_row_tiles / unit;
    first_run = static_cast<int>(units * cluster / num_clusters) * unit;
    end_run = static_cast<int>(units * (cluster + 1) / num_clusters) * unit;
    num_passes = (end_run - first_run + unit_tiles - 1) / unit_tiles;
  }
  __device__ __forceinline__ int num() const {
    if (runs) return num_passes;
    const int all = (num_row_tiles + unit_tiles - 1) / unit_tiles * num_row_blocks;
    return all > cluster ? (all - cluster - 1) / num_clusters + 1 : 0;
  }
  struct Place {
    int first_row, first_tile, num_tiles;
  };
  // Of output `i` the part of block `rank` of `num_parts`.
  __device__ __forceinline__ Place place(int i, int rank, int num_parts) const {
    if (runs) {
      const int units = (end_run - first_run) / unit;
      const int first = units * i / num_passes, end = units * (i + 1) / num_passes, middle = (first + end + 1) / 2;
      const int from = rank == 0 ? first : middle, to = rank == 0 ? middle : end;
      return {0, first_run + from * unit, (to - from) * unit};
    }
    const int output = cluster + i * num_clusters, tiles = unit_tiles / num_parts;
    const int first_tile = output / num_row_blocks * unit_tiles + rank * tiles;
    return {output % num_row_blocks * rows_a_block, first_tile, max(0, min(tiles, num_row_tiles - first_tile))};
  }
};

template <int kRows, Pairing kPairing>
__global__ void __launch_bounds__(kThreads, 1) TiledMatMul(const MatMulView view, const DeviceEpilogue epilogue,
                                                           const bool runs, const __grid_constant__ CUtensorMap x_map) {
  using Shape = TiledShape<kRows, kPairing>;
  constexpr bool kHalved = Shape::kHalved;
  constexpr int kNumStages = Shape::kNumStages;
  constexpr int kSums = kRows / 2;  // of a thread
  extern __shared__ uint8_t unaligned[];
  uint8_t* const shared = unaligned + (1024 - (SharedAddress(unaligned) & 1023)) % 1024;
  uint8_t* const turns = shared + kNumStages * Shape::kStageBytes;
  uint8_t* const received = turns + 2 * 2 * kTurnBytes;
  const uint32_t full = SharedAddress(received + Shape::kReceivedBytes);
  const uint32_t empty = full + kNumStages * 8;
  const uint32_t arrived = empty + kNumStages * 8;  // the other block's sums are here
  const uint32_t drained = arrived + 8;             // the other block has read this one's
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int rank = static_cast<int>(blockIdx.x) % kCluster;
  const int num_chunks = view.num_k_tiles / kTilesPerChunk;
  const int first_segment = kHalved ? rank * 2 : 0, end_segment = kHalved ? rank * 2 + 2 : kNumSegments;
  Outputs outputs{.runs = runs,
                  .unit = epilogue == DeviceEpilogue::kSiluMul ? 2 : 1,
                  .unit_tiles = kHalved ? kRowTilesPerBlock : kCluster * kRowTilesPerBlock,
                  .num_row_tiles = view.num_row_tiles,
                  .num_row_blocks = (view.num_rows + kRows - 1) / kRows,
                  .rows_a_block = kRows,
                  .cluster = static_cast<int>(blockIdx.x) / kCluster,
                  .num_clusters = static_cast<int>(gridDim.x) / kCluster};
  if (runs) outputs.FindRun();
  const int num_outputs = outputs.num();
  const auto place_of = [&](int i) { return kHalved ? outputs.place(i, 0, 1) : outputs.place(i, rank, kCluster); };

  if (threadIdx.x == 0) {
    for (int i = 0; i < kNumStages; ++i) {
      InitBarrier(full + i * 8, 1);
      InitBarrier(empty + i * 8, kMultiplyWarps * (kHalved ? 1 : kCluster));
    }
    InitBarrier(arrived, kMultiplyWarps);
    InitBarrier(drained, kMultiplyWarps);
    FenceBarrierInit();
  }
  SyncCluster();
  LetLaterKernelsStart();

  if (warp >= kMultiplyWarps) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp == kMultiplyWarps) {
      int stage = 0, turn = 0;
      uint32_t parity = 1;
      const auto copy_weights = [&](int first_tile, int num_tiles, int chunk) {
        if (lane == 0) ArriveExpecting(full + stage * 8, num_tiles * kChunkBytes + Shape::kXBytes);
        __syncwarp();
        if (lane < num_tiles) {
          const int64_t from =
              (static_cast<int64_t>(first_tile + lane) * view.num_k_tiles + chunk * kTilesPerChunk) * kTileBytes;
          CopyBulk(SharedAddress(shared) + stage * Shape::kStageBytes + lane * kChunkBytes, view.w + from, kChunkBytes,
                   full + stage * 8);
        }
      };
      const auto copy_rows = [&](int first_row, int chunk) {
        if (lane != 0) return;
        const uint32_t to = SharedAddress(shared) + stage * Shape::kStageBytes + kWeightBytes;
        if constexpr (kHalved) {
          CopyTile(to, &x_map, chunk * kChunkColumns, first_row, full + stage * 8);
        } else {
          CopyTileToCluster(to + rank * (Shape::kXBytes / kCluster), &x_map, chunk * kChunkColumns,
                            first_row + rank * Shape::kBoxRows, full + stage * 8, (1 << kCluster) - 1);
        }
      };
      const auto advance = [&] {
        if (++stage == kNumStages) {
          stage = 0;
          parity ^= 1;
        }
      };
      // Weights of the first turn of the ring depend on no earlier kernel; x does.
      int num_ahead = 0;
      if (num_outputs > 0) {
        const Outputs::Place place = place_of(0);
        for (int segment = first_segment; segment < end_segment; ++segment) {
          for (int chunk = segment; chunk < num_chunks && num_ahead < kNumStages; chunk += kNumSegments, ++num_ahead) {
            copy_weights(place.first_tile, place.num_tiles, chunk);
            advance();
          }
        }
      }
      stage = 0;
      parity = 1;
      WaitForEarlierKernels();
      for (int i = 0; i < num_outputs; ++i) {
        const Outputs::Place place = place_of(i);
        for (int segment = first_segment; segment < end_segment; ++segment) {
          for (int chunk = segment; chunk < num_chunks; chunk += kNumSegments, ++turn) {
            if (turn >= num_ahead) {
              WaitBarrier(empty + stage * 8, parity);
              copy_weights(place.first_tile, place.num_tiles, chunk);
            }
            copy_rows(place.first_row, chunk);
            advance();
          }
        }
      }
    }
    __syncwarp();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    WaitForEarlierKernels();  // the residual stream and out
    const int g = lane / 4, t = lane % 4;
    const int group = warp / 4, group_warp = warp % 4;
    int stage = 0;
    uint32_t parity = 0;
    // Whoever copies into a stage waits for all who read it.
    const auto release = [&](int of) {
      if constexpr (kHalved) {
        if (lane == 0) Arrive(empty + of * 8);
      } else {
        if (lane < kCluster) ArriveRemoteRead(RemoteAddress(empty + of * 8, lane));
      }
    };
    for (int round = 0; round < num_outputs; ++round) {
      const auto [first_row, first_tile, num_tiles] = place_of(round);
      float total[kSums], acc[kSums];
      for (int segment = first_segment; segment < end_segment; ++segment) {
#pragma unroll
        for (int e = 0; e < kSums; ++e) acc[e] = 0.0f;
        PinAccumulators(acc);
        // Two sets of weight registers in turn: one is loaded while the other is multiplied with.
        uint4 a[2][2];
        int before = -1;  // the stage that is read last
        for (int chunk = segment; chunk < num_chunks; chunk += kNumSegments) {
          const uint8_t* const base = shared + stage * Shape::kStageBytes;
          WaitBarrier(full + stage * 8, parity);
          const uint64_t x = RowsDescriptor(SharedAddress(base) + kWeightBytes);
          const uint8_t* const from = base + warp * kChunkBytes + lane * 16;
#pragma unroll
          for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              a[half][j] = *reinterpret_cast<const uint4*>(from + (half * 2 + j) * kTileBytes);
            }
            FenceMultiply();
#pragma unroll
            for (int j = 0; j < 2; ++j) WarpgroupMultiplyAdd(acc, a[half][j], x + (half * 2 + j) * 2);
            CommitMultiply();
            WaitMultiply<1>();
            if (half == 0 && before >= 0) release(before);
          }
          before = stage;
          if (++stage == kNumStages) {
            stage = 0;
            parity ^= 1;
          }
        }
        WaitMultiply<0>();
        PinAccumulators(acc);
        if (before >= 0) release(before);
        if (segment == first_segment) {
#pragma unroll
          for (int e = 0; e < kSums; ++e) total[e] = acc[e];
        } else if (!kHalved || rank == 0) {
#pragma unroll
          for (int e = 0; e < kSums; ++e) total[e] = total[e] + acc[e];
        }
      }

      int first_sum = 0;  // of those that this block stores
      if constexpr (kHalved) {
        // The first block has the sum of the first two segments, the second one the third in `total` and the fourth in
        // `acc`; each completes half of the rows. Threads of the two blocks hold the same outputs.
        constexpr int kMine = kSums / 2;
        if (round > 0) WaitBarrierCluster(drained, (round - 1) & 1);
        const uint32_t to = RemoteAddress(SharedAddress(received), 1 - rank) + threadIdx.x * 16;
#pragma unroll
        for (int e = 0; e < kMine; e += 4) {
          if (rank == 0) {
            StoreRemote(to + e * (kMultiplyThreads * 4), make_float4(total[kMine + e], total[kMine + e + 1],
                                                                     total[kMine + e + 2], total[kMine + e + 3]));
          } else {
            StoreRemote(to + e * (kMultiplyThreads * 4),
                        make_float4(total[e], total[e + 1], total[e + 2], total[e + 3]));
            StoreRemote(to + (kMine + e) * (kMultiplyThreads * 4),
                        make_float4(acc[e], acc[e + 1], acc[e + 2], acc[e + 3]));
          }
        }
        __syncwarp();
        if (lane == 0) ArriveRemote(RemoteAddress(arrived, 1 - rank));
        WaitBarrierCluster(arrived, round & 1);
        const uint8_t* const from = received + threadIdx.x * 16;
        const auto sums_at = [&](int e) { return *reinterpret_cast<const float4*>(from + e * (kMultiplyThreads * 4)); };
#pragma unroll
        for (int e = 0; e < kMine; e += 4) {
          const float4 first = sums_at(e);
          const float firsts[4] = {first.x, first.y, first.z, first.w};
          if (rank == 0) {
            const float4 second = sums_at(kMine + e);
            const float seconds[4] = {second.x, second.y, second.z, second.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) total[e + i] = (total[e + i] + firsts[i]) + seconds[i];
          } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) total[e + i] = (firsts[i] + total[kMine + e + i]) + acc[kMine + e + i];
          }
        }
        __syncwarp();
        if (lane == 0) ArriveRemote(RemoteAddress(drained, 1 - rank));
        first_sum = rank * kMine;
      }

      // A warp stores four rows of each 16, its warpgroup's 64 features of two rows at a time.
      constexpr int kTurns = (kHalved ? kRows / 2 : kRows) / kTurnRows;
      const int first = first_row + first_sum * 2;
      const int feature = (first_tile + group * 4) * 16 + lane % 16 * 4;
      const bool has_feature = group * 4 + lane % 16 / 4 < num_tiles && feature < view.num_features;
      const auto row_of = [&](int turn, int i) { return turn * kTurnRows + group_warp * 4 + i * 2 + lane / 16; };
      float4 old[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) old[i] = OldFour(view, epilogue, first + row_of(0, i), feature);
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        float* const exchange = reinterpret_cast<float*>(turns + (turn % 2 * 2 + group) * kTurnBytes);
#pragma unroll
        for (int e = 0; e < kTurnRows / 2; ++e) {
          const int row = e / 4 * 8 + t * 2 + e % 2, column = group_warp * 16 + g + e % 4 / 2 * 8;
          exchange[row * kTurnStride + column] = total[turn * (kTurnRows / 2) + e];
        }
        float4 next_old[2] = {};
        if (turn + 1 < kTurns) {
#pragma unroll
          for (int i = 0; i < 2; ++i) next_old[i] = OldFour(view, epilogue, first + row_of(turn + 1, i), feature);
        }
        SyncNamed(1 + group, 128);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = row_of(turn, i);
          const float4 sum = *reinterpret_cast<const float4*>(exchange + row % kTurnRows * kTurnStride + lane % 16 * 4);
          StoreFour(view, epilogue, first + row, feature, has_feature && first + row < view.num_rows, sum, old[i]);
        }
        old[0] = next_old[0];
        old[1] = next_old[1];
      }
      SyncNamed(1 + group, 128);  // the next output's first turn may be written
    }
  }
  SyncCluster();  // no block ends while another copies to it or tells it
}

// How many clusters run at once.
int NumClusters() {
  static const int count = [] {
    using Shape = TiledShape<128, Pairing::kSideBySide>;
    int clusters = 0;
    if (MaxActiveClusters(TiledMatMul<128, Pairing::kSideBySide>, kThreads, Shape::kBytes, kCluster, &clusters) !=
        KernelError::kOk) {
      return 1;
    }
    return clusters > 0 ? clusters : 1;
  }();
  return count;
}

template <int kRows, Pairing kPairing>
constexpr int kUnitTiles = (kPairing == Pairing::kByHalves ? 1 : kCluster) * kRowTilesPerBlock;

template <int kRows, Pairing kPairing>
int64_t NumOutputs(const MatMulView& view) {
  constexpr int kTiles = kUnitTiles<kRows, kPairing>;
  return int64_t{(view.num_row_tiles + kTiles - 1) / kTiles} * ((view.num_rows + kRows - 1) / kRows);
}

template <int kRows, Pairing kPairing>
KernelError LaunchRows(const MatMulView& view, DeviceEpilogue epilogue, bool runs, Stream stream) {
  using Shape = TiledShape<kRows, kPairing>;
  CUtensorMap x_map;
  const KernelError error = MakeRowsMap(view, Shape::kBoxRows, &x_map);
  if (error != KernelError::kOk) return error;
  const int64_t outputs = NumOutputs<kRows, kPairing>(view);
  const int clusters = outputs < NumClusters() ? static_cast<int>(outputs) : NumClusters();
  return Launch(TiledMatMul<kRows, kPairing>,
                {.grid = dim3(static_cast<unsigned>(clusters * kCluster)),
                 .block = kThreads,
                 .shared_bytes = Shape::kBytes,
                 .cluster = kCluster},
                stream, view, epilogue, runs, x_map);
}

// Nanoseconds that a tiling takes, about: each chunk of K and each output of a cluster has its price. Measured on an
// H200 with the shapes of an 8B model from 128 to 2048 rows; kernels/README.md has the figures.
template <int kRows, Pairing kPairing>
int64_t Cost(const MatMulView& view, int64_t chunk_ns, int64_t output_ns) {
  const int64_t chunks = view.num_k_tiles / kTilesPerChunk / (kPairing == Pairing::kByHalves ? 2 : 1);
  const int64_t rounds = (NumOutputs<kRows, kPairing>(view) + NumClusters() - 1) / NumClusters();
  return rounds * (chunks * chunk_ns + output_ns);
}

DeviceTiling BestTiling(const MatMulView& view) {
  if (view.num_rows <= 32) return DeviceTiling::kRuns32;
  if (view.num_rows <= 64) return DeviceTiling::kRuns64;
  const struct {
    DeviceTiling tiling;
    int64_t cost;
  } choices[] = {{DeviceTiling::kHalves64, Cost<64, Pairing::kByHalves>(view, 396, 3500)},
                 {DeviceTiling::kHalves128, Cost<128, Pairing::kByHalves>(view, 425, 6700)},
                 {DeviceTiling::kPairs128, Cost<128, Pairing::kSideBySide>(view, 450, 2500)},
                 {DeviceTiling::kPairs176, Cost<176, Pairing::kSideBySide>(view, 530, 2500)},
                 {DeviceTiling::kPairs192, Cost<192, Pairing::kSideBySide>(view, 570, 2500)}};
  auto best = choices[0];
  for (const auto& choice : choices) {
    if (choice.cost < best.cost) best = choice;
  }
  return best.tiling;
}

}  // namespace

KernelError LaunchTiledMatMul(const MatMulView& view, DeviceEpilogue epilogue, DeviceTiling tiling, Stream stream) {
  if (tiling == DeviceTiling::kAuto) tiling = BestTiling(view);
  switch (tiling) {
    case DeviceTiling::kRuns32:
      if (view.num_rows > 32) return KernelError::kInvalidShape;
      return LaunchRows<32, Pairing::kSideBySide>(view, epilogue, true, stream);
    case DeviceTiling::kRuns64:
      if (view.num_rows > 64) return KernelError::kInvalidShape;
      return LaunchRows<64, Pairing::kSideBySide>(view, epilogue, true, stream);
    case DeviceTiling::kHalves64:
      return LaunchRows<64, Pairing::kByHalves>(view, epilogue, false, stream);
    case DeviceTiling::kHalves128:
      return LaunchRows<128, Pairing::kByHalves>(view, epilogue, false, stream);
    case DeviceTiling::kPairs128:
      return LaunchRows<128, Pairing::kSideBySide>(view, epilogue, false, stream);
    case DeviceTiling::kPairs176:
      return LaunchRows<176, Pairing::kSideBySide>(view, epilogue, false, stream);
    case DeviceTiling::kPairs192:
      return LaunchRows<192, Pairing::kSideBySide>(view, epilogue, false, stream);
    case DeviceTiling::kAuto:
      break;
  }
  return KernelError::kInvalidShape;
}

}  // namespace outrider::kernels::device
