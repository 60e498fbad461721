// Products of many rows: wgmma, weights from registers as the M operand, rows of x from shared memory as N. The four
// blocks of a thread block cluster take a segment of K each, so that each reads a quarter of x and of the weights; then
// they exchange their sums through each other's shared memory and add them ascending, every fourth row each.
//
// In a block two warpgroups multiply and one warp keeps a ring of copies ahead of them, across outputs: while one
// tile's sums are exchanged, the next one's weights arrive.
#include <cuda.h>

#include "kernels/common/cuda_launch.h"
#include "kernels/gemm/device_gemm_shared.cuh"
#include "kernels/gemm/device_gemm_tensor_map.h"
#include "kernels/gemm/device_gemm_wgmma.cuh"

namespace outrider::kernels::device {
namespace {

constexpr int kCluster = kNumSegments;  // blocks
constexpr int kMultiplyThreads = 256;
constexpr int kThreads = kMultiplyThreads + 128;  // the producer has a warpgroup, so that it can give up registers
constexpr int kGroupTiles = 8;                    // row tiles that the two warpgroups multiply side by side
constexpr int kGroupFeatures = kGroupTiles * 16;
constexpr int kChunkBytes = kTilesPerChunk * kTileBytes;  // of a row tile
constexpr int kBytesMax = 232448;

// kRows: rows of x at a time, 16, 32, 64, 128 or 256. kGroups: times 128 features at a time.
template <int kRows, int kGroups>
struct ClusterShape {
  static constexpr int kPartRows = kRows < 128 ? kRows : 128;
  static constexpr int kParts = kRows / kPartRows;
  static constexpr int kWeightBytes = kGroups * kGroupTiles * kChunkBytes;
  static constexpr int kPartBytes = kPartRows * kChunkColumns * 2;
  static constexpr int kStageBytes = kWeightBytes + kParts * kPartBytes;
  // Sums of several groups are exchanged in one round where they fit: a round costs about 2 us.
  static constexpr int kRoundGroups = kRows <= 64 ? kGroups : 1;
  static constexpr int kExchangeStride = kRoundGroups * kGroupFeatures + 4;  // floats; spreads the banks
  static constexpr int kExchangeBytes = kPartRows * kExchangeStride * 4;
  static constexpr int kFit = (kBytesMax - 1024 - 256 - kExchangeBytes) / kStageBytes;
  static constexpr int kNumStages = kFit < 8 ? kFit : 8;
  static constexpr int kBytes = kNumStages * kStageBytes + kExchangeBytes + 1024 + 256;
  static_assert(kNumStages >= 3);
};

// What a cluster computes one after the other: runs of row tiles, each for all rows, kRows at a time.
struct Work {
  int first_tile, end_tile;
  int num_passes;
  int unit;  // tiles that stay together: 2 for gate and up
  int num_row_blocks;

  __device__ int num_units() const { return num_passes * num_row_blocks; }
  __device__ int tile(int pass) const { return first_tile + (end_tile - first_tile) / unit * pass / num_passes * unit; }
};

template <int kRows, int kGroups>
__global__ void __launch_bounds__(kThreads, 1)
    ClusterMatMul(const MatMulView view, const DeviceEpilogue epilogue, const int unit,
                  const __grid_constant__ CUtensorMap x_map) {
  using Shape = ClusterShape<kRows, kGroups>;
  constexpr int kMaxTiles = kGroups * kGroupTiles;  // a pass
  constexpr int kParts = Shape::kParts, kPartRows = Shape::kPartRows, kNumStages = Shape::kNumStages;
  extern __shared__ uint8_t unaligned[];
  uint8_t* const shared = unaligned + (1024 - (SharedAddress(unaligned) & 1023)) % 1024;
  float* const exchange = reinterpret_cast<float*>(shared + kNumStages * Shape::kStageBytes);
  const uint32_t full = SharedAddress(exchange) + Shape::kExchangeBytes;
  const uint32_t empty = full + kNumStages * 8;
  const uint32_t written = empty + kNumStages * 8;  // all blocks' sums lie in their exchanges
  const uint32_t read = written + 8;                // all blocks have read this one's exchange
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int rank = static_cast<int>(blockIdx.x) % kCluster;  // in the cluster; its segment
  const int cluster = static_cast<int>(blockIdx.x) / kCluster, num_clusters = static_cast<int>(gridDim.x) / kCluster;

  const int64_t units = view.num_row_tiles / unit;
  Work work;
  work.first_tile = static_cast<int>(units * cluster / num_clusters) * unit;
  work.end_tile = static_cast<int>(units * (cluster + 1) / num_clusters) * unit;
  work.unit = unit;
  work.num_passes = (work.end_tile - work.first_tile + kMaxTiles - 1) / kMaxTiles;
  work.num_row_blocks = (view.num_rows + kRows - 1) / kRows;
  const int all_chunks = view.num_k_tiles / kTilesPerChunk;
  const int num_chunks = rank < all_chunks ? (all_chunks - rank + kNumSegments - 1) / kNumSegments : 0;

  if (threadIdx.x == 0) {
    for (int i = 0; i < kNumStages; ++i) {
      InitBarrier(full + i * 8, 1);
      InitBarrier(empty + i * 8, kMultiplyThreads / 32);
    }
    InitBarrier(written, kCluster);
    InitBarrier(read, kCluster);
    FenceBarrierInit();
  }
  SyncCluster();
  LetLaterKernelsStart();

  if (warp >= kMultiplyThreads / 32) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp == kMultiplyThreads / 32) {
      // Position of a walk over all stages, in their order; counters, as divisions would take longer than a copy.
      struct Walk {
        int pass = 0, row_block = 0, c = 0, tile = 0, num_tiles = 0, stage = 0;
        uint32_t parity = 1;
      };
      const auto begin = [&] {
        Walk walk;
        walk.tile = work.tile(0);
        walk.num_tiles = work.tile(1) - walk.tile;
        return walk;
      };
      const auto advance = [&](Walk& walk) {
        if (++walk.stage == kNumStages) {
          walk.stage = 0;
          walk.parity ^= 1;
        }
        if (++walk.c < num_chunks) return;
        walk.c = 0;
        if (++walk.row_block < work.num_row_blocks) return;
        walk.row_block = 0;
        ++walk.pass;
        walk.tile += walk.num_tiles;
        walk.num_tiles = work.tile(walk.pass + 1) - walk.tile;
      };
      const auto copy_weights = [&](const Walk& walk) {
        const uint32_t barrier = full + walk.stage * 8;
        if (lane == 0) ArriveExpecting(barrier, walk.num_tiles * kChunkBytes + kParts * Shape::kPartBytes);
        __syncwarp();
        if (lane < walk.num_tiles) {
          const int chunk = walk.c * kNumSegments + rank;
          CopyBulk(SharedAddress(shared + walk.stage * Shape::kStageBytes) + lane * kChunkBytes,
                   view.w + (static_cast<int64_t>(walk.tile + lane) * view.num_k_tiles + chunk * kTilesPerChunk) *
                                kTileBytes,
                   kChunkBytes, barrier);
        }
      };
      const auto copy_rows = [&](const Walk& walk) {
        if (lane < kParts) {
          CopyTile(
              SharedAddress(shared + walk.stage * Shape::kStageBytes) + Shape::kWeightBytes + lane * Shape::kPartBytes,
              &x_map, (walk.c * kNumSegments + rank) * kChunkColumns, walk.row_block * kRows + lane * kPartRows,
              full + walk.stage * 8);
        }
      };
      // Weights of the first turn of the ring depend on no earlier kernel; x does.
      const int num_turns = work.num_units() * num_chunks;
      if (num_turns > 0) {
        Walk ahead = begin();
        for (int i = 0; i < min(kNumStages, num_turns); ++i) {
          copy_weights(ahead);
          advance(ahead);
        }
        WaitForEarlierKernels();
        Walk walk = begin();
        for (int i = 0; i < num_turns; ++i) {
          if (i >= kNumStages) {
            WaitBarrier(empty + walk.stage * 8, walk.parity);
            copy_weights(walk);
          }
          copy_rows(walk);
          advance(walk);
        }
      }
    }
    __syncwarp();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    WaitForEarlierKernels();  // the residual stream and out
    const int g = lane / 4, t = lane % 4;
    const int group_tile = warp;  // this warp's row tile within a group
    const uint32_t exchange_at = SharedAddress(exchange);
    int stage = 0, before = 0, round = 0;
    uint32_t parity = 0;
    for (int item = 0; item < work.num_units(); ++item) {
      const int tile = work.tile(item / work.num_row_blocks);
      const int num_tiles = work.tile(item / work.num_row_blocks + 1) - tile;
      const int first_row = item % work.num_row_blocks * kRows;
      float acc[kGroups][kParts][kPartRows / 2];
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
#pragma unroll
          for (int e = 0; e < kPartRows / 2; ++e) acc[group][part][e] = 0.0f;
          PinAccumulators(acc[group][part]);
        }
      }
      // Two sets of weight registers in turn: one is loaded while the other is multiplied with.
      uint4 a[2][kTilesPerChunk];
      const auto stage_of_k = [&]<int kFirst>(bool is_first) {
        const uint8_t* const base = shared + stage * Shape::kStageBytes;
        WaitBarrier(full + stage * 8, parity);
        const uint64_t x = RowsDescriptor(SharedAddress(base) + Shape::kWeightBytes);
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          auto& set = a[(kFirst + group) % 2];
          const uint8_t* const from = base + (group * kGroupTiles + group_tile) * kChunkBytes + lane * 16;
#pragma unroll
          for (int j = 0; j < kTilesPerChunk; ++j) set[j] = *reinterpret_cast<const uint4*>(from + j * kTileBytes);
          FenceMultiply();
#pragma unroll
          for (int j = 0; j < kTilesPerChunk; ++j) {
#pragma unroll
            for (int part = 0; part < kParts; ++part) {
              // 32 bytes of K, in units of 16
              WarpgroupMultiplyAdd(acc[group][part], set[j], x + j * 2 + part * (Shape::kPartBytes / 16));
            }
          }
          CommitMultiply();
          WaitMultiply<1>();
          if (group == 0 && !is_first && lane == 0) Arrive(empty + before * 8);
        }
        before = stage;
        if (++stage == kNumStages) {
          stage = 0;
          parity ^= 1;
        }
      };
      int c = 0;
      for (; c + 1 < num_chunks; c += 2) {
        stage_of_k.template operator()<0>(c == 0);
        stage_of_k.template operator()<kGroups % 2>(false);
      }
      if (c < num_chunks) stage_of_k.template operator()<0>(c == 0);
      WaitMultiply<0>();
      if (num_chunks > 0 && lane == 0) Arrive(empty + before * 8);

      constexpr int kRoundGroups = Shape::kRoundGroups, kExchangeStride = Shape::kExchangeStride;
#pragma unroll
      for (int first_group = 0; first_group < kGroups; first_group += kRoundGroups) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          const int end_row = min(kPartRows, view.num_rows - first_row - part * kPartRows);
          if (first_group * kGroupTiles >= num_tiles || end_row <= 0) continue;
          if (round > 0) WaitBarrierCluster(read, (round - 1) & 1);
#pragma unroll
          for (int group = 0; group < kRoundGroups; ++group) {
            auto& sums = acc[first_group + group][part];
            PinAccumulators(sums);
#pragma unroll
            for (int e = 0; e < kPartRows / 2; ++e) {
              const int row = e / 4 * 8 + t * 2 + e % 2;
              const int feature = (group * kGroupTiles + group_tile) * 16 + g + e % 4 / 2 * 8;
              exchange[row * kExchangeStride + feature] = sums[e];
            }
          }
          SyncNamed(1, kMultiplyThreads);
          if (threadIdx.x < kCluster) ArriveRemote(RemoteAddress(written, threadIdx.x));
          WaitBarrierCluster(written, round & 1);
          // A warp takes 128 features of every fourth row at a time.
          const int num_my_rows = (end_row - rank + kCluster - 1) / kCluster;
#pragma unroll 2
          for (int n = warp; n < num_my_rows * kRoundGroups; n += kMultiplyThreads / 32) {
            const int row = n / kRoundGroups * kCluster + rank, group = n % kRoundGroups;
            const int group_feature = (tile + (first_group + group) * kGroupTiles) * 16 + lane * 4;
            const bool active =
                (first_group + group) * kGroupTiles + lane / 4 < num_tiles && group_feature < view.num_features;
            const uint32_t from = exchange_at + (row * kExchangeStride + group * kGroupFeatures + lane * 4) * 4;
            float4 sums[kNumSegments];
#pragma unroll
            for (int s = 0; s < kNumSegments; ++s) sums[s] = LoadRemote(RemoteAddress(from, s));
            float4 sum = sums[0];
#pragma unroll
            for (int s = 1; s < kNumSegments; ++s) {
              sum = make_float4(sum.x + sums[s].x, sum.y + sums[s].y, sum.z + sums[s].z, sum.w + sums[s].w);
            }
            const int out_row = first_row + part * kPartRows + row;
            StoreFour(view, epilogue, out_row, group_feature, active, sum,
                      OldFour(view, epilogue, out_row, group_feature));
          }
          SyncNamed(1, kMultiplyThreads);
          if (threadIdx.x < kCluster) ArriveRemote(RemoteAddress(read, threadIdx.x));
          ++round;
        }
      }
    }
  }
  SyncCluster();  // no block ends while another reads its memory
}

template <int kRows, int kGroups>
KernelError LaunchRows(const MatMulView& view, DeviceEpilogue epilogue, int unit, int num_clusters, Stream stream) {
  using Shape = ClusterShape<kRows, kGroups>;
  CUtensorMap x_map;
  const KernelError error = MakeRowsMap(view, Shape::kPartRows, &x_map);
  if (error != KernelError::kOk) return error;
  return Launch(ClusterMatMul<kRows, kGroups>,
                {.grid = dim3(static_cast<unsigned>(num_clusters * kCluster)),
                 .block = kThreads,
                 .shared_bytes = Shape::kBytes,
                 .cluster = kCluster},
                stream, view, epilogue, unit, x_map);
}

// How many clusters run at once: multiprocessors of a group that share what a cluster needs are not always a multiple
// of four.
int NumClusters() {
  static const int count = [] {
    using Shape = ClusterShape<64, 2>;
    int clusters = 0;
    if (MaxActiveClusters(ClusterMatMul<64, 2>, kThreads, Shape::kBytes, kCluster, &clusters) != KernelError::kOk) {
      return 1;
    }
    return clusters > 0 ? clusters : 1;
  }();
  return count;
}

}  // namespace

KernelError LaunchClusterMatMul(const MatMulView& view, DeviceEpilogue epilogue, Stream stream) {
  const int unit = epilogue == DeviceEpilogue::kSiluMul ? 2 : 1;
  const int units = view.num_row_tiles / unit;
  const int clusters = units < NumClusters() ? units : NumClusters();
  // The longest run of tiles of a cluster, in passes of equal length.
  const int run = (units + clusters - 1) / clusters * unit;
  const int groups_max = view.num_rows <= 32 ? 3 : view.num_rows <= 128 ? 2 : 1;
  const int passes = (run + groups_max * kGroupTiles - 1) / (groups_max * kGroupTiles);
  const int max_tiles = (run / unit + passes - 1) / passes * unit;
  const int groups = (max_tiles + kGroupTiles - 1) / kGroupTiles;
  const auto launch = [&]<int kRows, int kGroups>() {
    return LaunchRows<kRows, kGroups>(view, epilogue, unit, clusters, stream);
  };
  const auto by_groups = [&]<int kRows>() {
    if (groups == 1) return launch.template operator()<kRows, 1>();
    if (groups == 2) return launch.template operator()<kRows, 2>();
    return launch.template operator()<kRows, 3>();
  };
  if (view.num_rows <= 16) return by_groups.template operator()<16>();
  if (view.num_rows <= 32) return by_groups.template operator()<32>();
  if (view.num_rows <= 64) {
    return groups == 1 ? launch.template operator()<64, 1>() : launch.template operator()<64, 2>();
  }
  if (view.num_rows <= 128) {
    return groups == 1 ? launch.template operator()<128, 1>() : launch.template operator()<128, 2>();
  }
  return launch.template operator()<256, 1>();
}

}  // namespace outrider::kernels::device
