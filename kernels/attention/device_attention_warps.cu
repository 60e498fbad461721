// Attention where there are many tiles: a warp is a block and takes a tile for a KV head, or a range of one. Keys and
// values come to it 16 positions at a time through a ring of its own, so that each of the warps of a multiprocessor
// always has copies on their way, and nothing waits for other warps.
#include <algorithm>

#include "kernels/attention/device_attention_shared.cuh"
#include "kernels/common/cuda_launch.h"

namespace outrider::kernels::device {
namespace {

constexpr int kPieceRows = 16;
constexpr int kRangePieces = kRange / kPieceRows;
constexpr int kScoreStride = kRange + 8;  // floats; rows begin in different banks

// kHalves: halves of a tile's 16 pairs that are computed. kDeep: blocks are so few that each has a longer ring.
template <int kHeadDim, int kHalves, bool kDeep>
struct WarpShape {
  static constexpr int kPieceBytes = kPieceRows * kHeadDim * 2;
  // Measured: 4 KiB of head_dim 128 nine times where a multiprocessor has four blocks, else four times.
  static constexpr int kNumPieces = std::min(12, (kDeep ? 36864 : 16384) / kPieceBytes);
  static constexpr int kRingBytes = kNumPieces * kPieceBytes;
  static constexpr int kScoreBytes = 8 * kHalves * kScoreStride * 4;
  static constexpr int kBytes = kRingBytes + kScoreBytes + 8 * kHalves * 8 + kNumPieces * 8;
};

// Copies of a tile's keys and values, in the order in which they are used: a range's keys, its values, the next range.
template <int kHeadDim, int kNumPieces>
struct Copies {
  static constexpr int kBytes = kPieceRows * kHeadDim * 2;
  const TileView& tile;
  int lane, last_position, end_range, block_shift;
  uint32_t ring, full;
  // The next piece.
  int range, index = 0, count, slot = 0;
  bool is_values = false;
  // Lane i has the block of positions [16 i, 16 i + 16) of the range, and of the range after it.
  int32_t block, next_block;

  __device__ __forceinline__ Copies(const TileView& tile_of, int first_range, int end, uint32_t to, uint32_t barriers)
      : tile(tile_of),
        lane(static_cast<int>(threadIdx.x)),
        last_position(tile_of.last_position()),
        end_range(end),
        block_shift(ExponentOf(tile_of.view.layout.block_size)),
        ring(to),
        full(barriers),
        range(first_range),
        count(PiecesOf(first_range)),
        block(BlockOf(first_range)),
        next_block(BlockOf(first_range + 1)) {}

  __device__ __forceinline__ int PiecesOf(int of) const {
    return (min(kRange, last_position + 1 - of * kRange) + kPieceRows - 1) / kPieceRows;
  }
  __device__ __forceinline__ int32_t BlockOf(int of) const {
    const int position = of * kRange + lane % kRangePieces * kPieceRows;
    if (position > last_position) return 0;
    return LoadInput(tile.view.block_tables + tile.tile.block_table + (position >> block_shift));
  }
  __device__ __forceinline__ bool IsDone() const { return range >= end_range; }
  // Positions of the next piece end before it.
  __device__ __forceinline__ int EndOfNext() const { return range * kRange + (index + 1) * kPieceRows; }

  // Asks for the next piece, if there is one.
  __device__ __forceinline__ void Issue() {
    if (IsDone()) return;
    const int32_t from_block = __shfl_sync(kFullWarp, block, index);
    if (lane == 0) {
      const int in_block = index * kPieceRows & ((1 << block_shift) - 1);
      const __half* const storage = is_values ? tile.view.v_storage : tile.view.k_storage;
      ArriveExpecting(full + slot * 8, kBytes);
      CopyBulk(ring + slot * kBytes, storage + tile.view.layout.slot(from_block, tile.kv_head, in_block), kBytes,
               full + slot * 8);
    }
    slot = slot + 1 == kNumPieces ? 0 : slot + 1;
    if (++index < count) return;
    index = 0;
    if (is_values) {
      ++range;
      count = PiecesOf(range);
      block = next_block;
      next_block = BlockOf(range + 1);
    }
    is_values = !is_values;
  }
};

// grid: (KV heads, tiles, splits). With more than one split a block computes one range, and the last of a tile's blocks
// to end merges them; otherwise it walks all of its tile's ranges.
template <int kHeadDim, int kHalves, bool kDeep>
__global__ void __launch_bounds__(32) AttentionWarp(const AttentionView view) {
  using Shape = WarpShape<kHeadDim, kHalves, kDeep>;
  constexpr int kSteps = kHeadDim / 16;   // of K in a score
  constexpr int kColumns = kHeadDim / 8;  // groups of 8 columns of values
  constexpr int kNumPieces = Shape::kNumPieces;
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t ring = SharedAddress(shared);
  float* const scores = reinterpret_cast<float*>(shared + Shape::kRingBytes);
  float2* const range_sums = reinterpret_cast<float2*>(shared + Shape::kRingBytes + Shape::kScoreBytes);
  const uint32_t full = SharedAddress(range_sums + 8 * kHalves);
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;

  // The step's inputs are there since before its first kernel, keys and values of positions before the span's for
  // longer: neither waits for the kernels ahead.
  LetLaterKernelsStart();
  const TileView tile{view, LoadInput(view.tiles + (blockIdx.y)), static_cast<int>(blockIdx.x)};
  const bool split = gridDim.z > 1;
  const int num_ranges = tile.num_ranges(), oldest_range = tile.oldest_range();
  const int first_range = split ? static_cast<int>(blockIdx.z) : oldest_range;
  const int end_range = split ? first_range + 1 : num_ranges;
  if (first_range < oldest_range || first_range >= num_ranges) return;
  if (lane == 0) {
    for (int i = 0; i < kNumPieces; ++i) InitBarrier(full + i * 8, 1);
    FenceBarrierInit();
  }
  __syncwarp();
  Copies<kHeadDim, kNumPieces> copies(tile, first_range, end_range, ring, full);
  int num_asked = 0;
  for (; num_asked < kNumPieces && !copies.IsDone() && copies.EndOfNext() <= tile.tile.first_position; ++num_asked) {
    copies.Issue();
  }
  WaitForEarlierKernels();

  const int num_pairs = tile.tile.num_pairs;
  uint32_t q[kSteps][4];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int pair = g + i % 2 * 8;
      q[step][i] = i % 2 < kHalves && pair < num_pairs
                       ? *reinterpret_cast<const uint32_t*>(tile.q_of(pair, kHeadDim) + step * 16 + i / 2 * 8 + t * 2)
                       : 0;
    }
  }
  for (; num_asked < kNumPieces; ++num_asked) copies.Issue();

  int slot = 0;  // of the ring, the oldest piece
  uint32_t parity = 0;
  const auto wait = [&] {
    WaitBarrier(full + slot * 8, parity);
    const uint32_t at = ring + slot * Shape::kPieceBytes;
    if (++slot == kNumPieces) {
      slot = 0;
      parity ^= 1;
    }
    return at;
  };
  const auto release = [&] {
    __syncwarp();
    copies.Issue();
  };
  Running running[kHalves];
  float out[kColumns][2 * kHalves] = {};

  for (int range = first_range; range < end_range; ++range) {
    const int count = copies.PiecesOf(range);
    // scores = q k^T: 16 positions a piece
    for (int j = 0; j < count; ++j) {
      const uint32_t rows = wait();
      float score[2][4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t b[4];
        LoadMatrices4(rows + PieceOffset<kHeadDim>(lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2), b);
        MmaF16(score[0], q[step], b[0], b[1]);
        MmaF16(score[1], q[step], b[2], b[3]);
      }
      release();
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          *reinterpret_cast<float2*>(scores + (g + 8 * half) * kScoreStride + j * kPieceRows + n * 8 + t * 2) =
              make_float2(score[n][2 * half], score[n][2 * half + 1]);
        }
      }
    }
    __syncwarp();
#pragma unroll 4
    for (int pair = 0; pair < num_pairs; ++pair) {
      const int position = tile.position_of(pair);
      const float2 sums = WeightsOfRange(scores + pair * kScoreStride, view.scale,
                                         tile.oldest_of(position) - range * kRange, position + 1 - range * kRange);
      if (lane == 0) range_sums[pair] = sums;
    }
    __syncwarp();

    // values weighted: 16 positions a piece
    float next[kColumns][4] = {};
    for (int j = 0; j < count; ++j) {
      uint32_t weights[4] = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i % 2 >= kHalves) continue;
        const float2 w = *reinterpret_cast<const float2*>(scores + (g + i % 2 * 8) * kScoreStride + j * kPieceRows +
                                                          i / 2 * 8 + t * 2);
        weights[i] = PackF16(w.x, w.y);
      }
      const uint32_t rows = wait();
      // Weights beyond the last position are zero, and zero times what memory held need not be: zeros there too.
      if (range * kRange + (j + 1) * kPieceRows > copies.last_position + 1) {
        constexpr int kRowPieces = kHeadDim / 8;
        const int num_rows = copies.last_position + 1 - range * kRange - j * kPieceRows;
        for (int i = num_rows * kRowPieces + lane; i < kPieceRows * kRowPieces; i += 32) {
          reinterpret_cast<uint4*>(shared + (rows - ring))[i] = make_uint4(0, 0, 0, 0);
        }
        __syncwarp();
      }
#pragma unroll
      for (int column = 0; column < kColumns; column += 2) {
        uint32_t b[4];
        LoadMatrices4Transposed(rows + PieceOffset<kHeadDim>(lane % 16, column + lane / 16), b);
        MmaF16(next[column], weights, b[0], b[1]);
        MmaF16(next[column + 1], weights, b[2], b[3]);
      }
      release();
    }
    float max[kHalves], sum[kHalves];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      max[half] = range_sums[g + 8 * half].x;
      sum[half] = range_sums[g + 8 * half].y;
    }

    if (split) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const int pair = g + 8 * half;
        if (pair >= num_pairs) continue;
        const int64_t partial = tile.partial(range, pair);
        float* const to = view.partial_values + partial * kHeadDim + t * 2;
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
          *reinterpret_cast<float2*>(to + column * 8) = make_float2(next[column][2 * half], next[column][2 * half + 1]);
        }
        if (t == 0) view.partial_sums[partial] = make_float2(max[half], sum[half]);
      }
    } else {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const Merge merge = MergeRange(running[half], max[half], sum[half]);
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            out[column][e] = MergeValue(merge, out[column][e], next[column][e]);
          }
        }
      }
    }
  }

  if (split) {
    MergePartials<kHeadDim>(tile, oldest_range, num_ranges, /*barrier=*/0, 32);
    return;
  }
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int pair = g + 8 * half;
    if (pair >= num_pairs) continue;
    __nv_bfloat16* const to = tile.out_of(pair, kHeadDim) + t * 2;
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      *reinterpret_cast<uint32_t*>(to + column * 8) = PackBf16(__fdiv_rn(out[column][2 * half], running[half].sum),
                                                               __fdiv_rn(out[column][2 * half + 1], running[half].sum));
    }
  }
}

template <int kHeadDim>
KernelError LaunchHeadDim(const DeviceAttentionArgs& args, const AttentionView& view, Stream stream) {
  const DeviceAttentionPlan& plan = *args.plan;
  const auto launch = [&]<int kHalves, bool kDeep>() {
    return Launch(AttentionWarp<kHeadDim, kHalves, kDeep>,
                  {.grid = dim3(static_cast<unsigned>(args.layout.num_kv_heads),
                                static_cast<unsigned>(plan.num_narrow()), static_cast<unsigned>(plan.num_splits())),
                   .block = 32,
                   .shared_bytes = WarpShape<kHeadDim, kHalves, kDeep>::kBytes},
                  stream, view);
  };
  const bool deep = plan.kernel() == DeviceAttentionPlan::Kernel::kDeepWarps;
  if (plan.narrow_pairs_max() <= 8) {
    return deep ? launch.template operator()<1, true>() : launch.template operator()<1, false>();
  }
  return deep ? launch.template operator()<2, true>() : launch.template operator()<2, false>();
}

}  // namespace

KernelError LaunchAttentionWarps(const DeviceAttentionArgs& args, const AttentionView& view, Stream stream) {
  return ForHeadDim(args.layout.head_dim, [&]<int kHeadDim>() { return LaunchHeadDim<kHeadDim>(args, view, stream); });
}

}  // namespace outrider::kernels::device
