// Attention where there are few tiles, to be done soonest: a block takes one range of a tile for a KV head, asks for
// all of its keys and values at once and computes with eight warps; the last of a tile's blocks to end merges them.
// Where tiles are whole spans, blocks turn q and k themselves and store the span's own keys and values: there is no
// kernel between the product and this one.
#include "kernels/attention/device_attention_shared.cuh"
#include "kernels/common/cuda_launch.h"

namespace outrider::kernels::device {
namespace {

constexpr int kScoreStride = kRange + 8;  // floats; rows begin in different banks
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;

template <int kHeadDim>
struct BlockShape {
  static constexpr int kStorageBytes = kRange * kHeadDim * 2;  // keys, or values
  static constexpr int kScoreBytes = 16 * kScoreStride * 4;
  static constexpr int kTurnedStride = kHeadDim + 8;  // F16; rows begin in different banks
  static_assert(16 * kTurnedStride * 2 <= kScoreBytes);
  static constexpr int kBytes = 2 * kStorageBytes + kScoreBytes + 16 * 8 + 16;
  static constexpr int kSteps = kHeadDim / 16;        // of K in a score
  static constexpr int kValueColumns = kHeadDim / 8;  // groups of 8 columns of values
  static constexpr int kColumnsAWarp = (kValueColumns + kWarps - 1) / kWarps;
};

// Turns q, k and v of a tile's rows, a pair of elements a thread and turn: q into `q` (pairs of row and head
// kTurnedStride apart), k and v of positions in the range from `range_begin` into their places there and in storage.
// Waits for the kernels ahead after it has read what does not depend on them.
template <int kHeadDim>
__device__ __forceinline__ void TurnAndAppend(const TileView& tile, int range_begin, __half* q, uint8_t* keys,
                                              uint8_t* values) {
  constexpr int kPairs = kHeadDim / 2;  // of elements
  constexpr int kEarly = 2;
  const AttentionView& view = tile.view;
  const int num_turned = view.rope.rotary_dim / 2;
  const int heads_a_row = view.group + 2, num_rows = tile.tile.num_pairs / view.group;
  const int num_items = num_rows * heads_a_row * kPairs;
  // What an item needs that depends on no earlier kernel.
  struct Inputs {
    float2 cos_sin;
    int kv_slot;
    int64_t block;
  };
  const auto is_turned = [&](int item) {
    return item / kPairs % heads_a_row <= view.group && item % kPairs < num_turned;
  };
  const auto inputs_of = [&](int item) {
    const int row = item / kPairs / heads_a_row, position = tile.tile.first_position + row;
    Inputs inputs{};
    if (is_turned(item)) {
      const float* const of = view.rope.cos_sin + static_cast<int64_t>(position) * view.rope.rotary_dim + item % kPairs;
      inputs.cos_sin = make_float2(of[0], of[num_turned]);
    }
    if (item / kPairs % heads_a_row >= view.group) {
      inputs.kv_slot = LoadInput(view.rope.kv_slots + tile.tile.first_row + row);
      inputs.block =
          LoadInput(view.block_tables + tile.tile.block_table + (position >> ExponentOf(view.layout.block_size)));
    }
    return inputs;
  };
  const auto turn = [&](int item, const Inputs& inputs) {
    const int pair = item % kPairs, head = item / kPairs % heads_a_row, row = item / kPairs / heads_a_row;
    const bool is_q = head < view.group, is_key = head == view.group;
    const int position = tile.tile.first_position + row, in_range = position - range_begin;
    if (!is_q && (in_range < 0 || in_range >= kRange)) return;
    const auto [first, second] = ElementsOfPair(pair, num_turned, view.rope.interleaved);
    const int head_of_row = is_q     ? tile.kv_head * view.group + head
                            : is_key ? view.num_heads + tile.kv_head
                                     : view.num_heads + view.layout.num_kv_heads + tile.kv_head;
    const __nv_bfloat16* const from = reinterpret_cast<const __nv_bfloat16*>(view.q) +
                                      (tile.tile.first_row + row) * view.q_stride +
                                      static_cast<int64_t>(head_of_row) * kHeadDim;
    float2 v = make_float2(__bfloat162float(from[first]), __bfloat162float(from[second]));
    if (is_turned(item)) v = Turned(v, inputs.cos_sin);
    __half a = __float2half_rn(ClampF16(v.x)), b = __float2half_rn(ClampF16(v.y));
    if (is_q) {
      __half* const to = q + (row * view.group + head) * BlockShape<kHeadDim>::kTurnedStride;
      to[first] = a;
      to[second] = b;
      return;
    }
    const int slot = position & (view.layout.block_size - 1);
    __half* const stored =
        (is_key ? view.rope.k_storage : view.rope.v_storage) + view.layout.slot(inputs.block, tile.kv_head, slot);
    if (inputs.kv_slot >= 0) {
      stored[view.layout.place(slot, first)] = a;
      stored[view.layout.place(slot, second)] = b;
    } else {  // not to be written: what is there counts
      a = stored[view.layout.place(slot, first)];
      b = stored[view.layout.place(slot, second)];
    }
    uint8_t* const rows = is_key ? keys : values;
    const auto place = [&](int i) {
      return reinterpret_cast<__half*>(rows + PieceOffset<kHeadDim>(in_range, i / 8)) + i % 8;
    };
    *place(first) = a;
    *place(second) = b;
  };
  Inputs inputs[kEarly];
#pragma unroll
  for (int n = 0; n < kEarly; ++n) {
    const int item = threadIdx.x + n * kThreads;
    if (item < num_items) inputs[n] = inputs_of(item);
  }
  WaitForEarlierKernels();
#pragma unroll
  for (int n = 0; n < kEarly; ++n) {
    const int item = threadIdx.x + n * kThreads;
    if (item < num_items) turn(item, inputs[n]);
  }
  for (int item = threadIdx.x + kEarly * kThreads; item < num_items; item += kThreads) turn(item, inputs_of(item));
}

// grid: (tiles, KV heads, ranges).
template <int kHeadDim, bool kTurns>
__global__ void __launch_bounds__(kThreads, 1) AttentionBlock(const AttentionView view) {
  using Shape = BlockShape<kHeadDim>;
  extern __shared__ __align__(128) uint8_t shared[];
  uint8_t* const keys = shared;
  uint8_t* const values = shared + Shape::kStorageBytes;
  float* const scores = reinterpret_cast<float*>(values + Shape::kStorageBytes);
  float2* const range_sums = reinterpret_cast<float2*>(values + Shape::kStorageBytes + Shape::kScoreBytes);

  const uint32_t keys_full = SharedAddress(range_sums + 16), values_full = keys_full + 8;
  __half* const turned_q = reinterpret_cast<__half*>(scores);  // kTurns: [pair][kTurnedStride], before there are scores

  LetLaterKernelsStart();
  // The step's inputs are there since before its first kernel, keys and values of positions before the span's for
  // longer: neither waits for the kernels ahead.
  const TileView tile{view, LoadInput(view.tiles + (blockIdx.x)), static_cast<int>(blockIdx.y)};
  const int num_pairs = tile.tile.num_pairs;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int last_position = tile.last_position();
  const int num_ranges = tile.num_ranges(), oldest_range = tile.oldest_range();
  const int range = static_cast<int>(blockIdx.z);
  if (range < oldest_range || range >= num_ranges) return;
  const int num_positions = min(kRange, last_position + 1 - range * kRange);
  const int num_steps = (num_positions + 15) / 16;  // of 16 positions, which lie in one block of storage
  // Those that come from storage: with kTurns all but the span's own.
  const int num_stored =
      kTurns ? min(max(tile.tile.first_position - range * kRange, 0), num_positions) : num_steps * 16;

  if (warp == 0) {
    // Lane i copies the keys of step i, lane 16 + i the values.
    constexpr int kRowBytes = kHeadDim * 2;
    if (lane == 0) {
      InitBarrier(keys_full, 1);
      InitBarrier(values_full, 1);
      FenceBarrierInit();
      ArriveExpecting(keys_full, num_stored * kRowBytes);
      ArriveExpecting(values_full, num_stored * kRowBytes);
    }
    __syncwarp();
    const int step = lane % 16, position = range * kRange + step * 16;
    const int num_rows = min(num_stored - step * 16, 16);
    const bool is_keys = lane < 16, is_old = kTurns || position + 16 <= tile.tile.first_position;
    const int shift = ExponentOf(view.layout.block_size);
    const auto copy = [&] {
      const int64_t block = LoadInput(view.block_tables + tile.tile.block_table + (position >> shift));
      CopyBulk(SharedAddress(is_keys ? keys : values) + step * 16 * kRowBytes,
               (is_keys ? view.k_storage : view.v_storage) +
                   view.layout.slot(block, tile.kv_head, position & (view.layout.block_size - 1)),
               num_rows * kRowBytes, is_keys ? keys_full : values_full);
    };
    if (num_rows > 0 && is_old) copy();
    if constexpr (!kTurns) {
      WaitForEarlierKernels();
      if (num_rows > 0 && !is_old) copy();
    }
  }
  if constexpr (kTurns) {
    TurnAndAppend<kHeadDim>(tile, range * kRange, turned_q, keys, values);
    __syncthreads();
  } else {
    __syncthreads();
    WaitForEarlierKernels();
  }

  uint32_t q[Shape::kSteps][4];
  {
    const auto load_q = [&](int pair, int column) -> uint32_t {
      if (pair >= num_pairs) return 0;
      if constexpr (kTurns) {
        return *reinterpret_cast<const uint32_t*>(turned_q + pair * Shape::kTurnedStride + column);
      } else {
        return *reinterpret_cast<const uint32_t*>(tile.q_of(pair, kHeadDim) + column);
      }
    };
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      q[step][0] = load_q(g, step * 16 + t * 2);
      q[step][1] = load_q(g + 8, step * 16 + t * 2);
      q[step][2] = load_q(g, step * 16 + t * 2 + 8);
      q[step][3] = load_q(g + 8, step * 16 + t * 2 + 8);
    }
  }
  if constexpr (kTurns) __syncthreads();  // scores take the place of q
  WaitBarrier(keys_full, 0);

  // scores = q k^T: groups of 8 positions, four a warp; those beyond the last hold what memory held and weigh nothing.
  constexpr int kGroupsAWarp = kRange / 8 / kWarps;
  if (warp * kGroupsAWarp * 8 < num_positions) {
    float score[kGroupsAWarp][4] = {};
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
#pragma unroll
      for (int n = 0; n < kGroupsAWarp; n += 2) {
        uint32_t b[4];
        const int row = (warp * kGroupsAWarp + n + lane / 16) * 8 + lane % 8;
        LoadMatrices4(SharedAddress(keys) + PieceOffset<kHeadDim>(row, step * 2 + lane / 8 % 2), b);
        MmaF16(score[n], q[step], b[0], b[1]);
        MmaF16(score[n + 1], q[step], b[2], b[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < kGroupsAWarp; ++n) {
      float* const to = scores + g * kScoreStride + (warp * kGroupsAWarp + n) * 8 + t * 2;
      *reinterpret_cast<float2*>(to) = make_float2(score[n][0], score[n][1]);
      *reinterpret_cast<float2*>(to + 8 * kScoreStride) = make_float2(score[n][2], score[n][3]);
    }
  }
  __syncthreads();

  // Weights of each pair: a warp a pair.
  for (int pair = warp; pair < num_pairs; pair += kWarps) {
    const int position = tile.position_of(pair);
    const float2 sums = WeightsOfRange(scores + pair * kScoreStride, view.scale,
                                       tile.oldest_of(position) - range * kRange, position + 1 - range * kRange);
    if (lane == 0) range_sums[pair] = sums;
  }
  WaitBarrier(values_full, 0);
  // Weights beyond the last position are zero, and zero times what memory held need not be: zeros there too.
  constexpr int kRowPieces = kHeadDim / 8;
  for (int i = num_positions * kRowPieces + threadIdx.x; i < num_steps * 16 * kRowPieces; i += kThreads) {
    reinterpret_cast<uint4*>(values)[i] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();

  // values weighted: 16 positions a step
  float next[Shape::kColumnsAWarp][4] = {};
#pragma unroll 4
  for (int step = 0; step < num_steps; ++step) {
    const float* const from = scores + g * kScoreStride + step * 16 + t * 2;
    const auto weights_at = [&](const float* at) {
      const float2 w = *reinterpret_cast<const float2*>(at);
      return PackF16(w.x, w.y);
    };
    const uint32_t weights[4] = {weights_at(from), weights_at(from + 8 * kScoreStride), weights_at(from + 8),
                                 weights_at(from + 8 * kScoreStride + 8)};
#pragma unroll
    for (int i = 0; i < Shape::kColumnsAWarp; ++i) {
      const int column = i * kWarps + warp;
      if (column >= Shape::kValueColumns) break;
      uint32_t b0, b1;
      LoadMatrices2Transposed(SharedAddress(values) + PieceOffset<kHeadDim>(step * 16 + lane % 16, column), b0, b1);
      MmaF16(next[i], weights, b0, b1);
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int pair = g + 8 * half;
    if (pair >= num_pairs) continue;
#pragma unroll
    for (int i = 0; i < Shape::kColumnsAWarp; ++i) {
      const int column = i * kWarps + warp;
      if (column >= Shape::kValueColumns) break;
      *reinterpret_cast<float2*>(view.partial_values + tile.partial(range, pair) * kHeadDim + column * 8 + t * 2) =
          make_float2(next[i][2 * half], next[i][2 * half + 1]);
    }
  }
  if (threadIdx.x < num_pairs) view.partial_sums[tile.partial(range, threadIdx.x)] = range_sums[threadIdx.x];
  MergePartials<kHeadDim>(tile, oldest_range, num_ranges, /*barrier=*/0, kThreads);
}

template <int kHeadDim, bool kTurns>
KernelError LaunchHeadDim(const DeviceAttentionArgs& args, const AttentionView& view, Stream stream) {
  return Launch(
      AttentionBlock<kHeadDim, kTurns>,
      {.grid = dim3(static_cast<unsigned>(args.plan->num_narrow()), static_cast<unsigned>(args.layout.num_kv_heads),
                    static_cast<unsigned>(args.plan->num_splits())),
       .block = kThreads,
       .shared_bytes = BlockShape<kHeadDim>::kBytes},
      stream, view);
}

}  // namespace

KernelError LaunchAttentionBlocks(const DeviceAttentionArgs& args, const AttentionView& view, bool turns,
                                  Stream stream) {
  return ForHeadDim(args.layout.head_dim, [&]<int kHeadDim>() {
    return turns ? LaunchHeadDim<kHeadDim, true>(args, view, stream)
                 : LaunchHeadDim<kHeadDim, false>(args, view, stream);
  });
}

}  // namespace outrider::kernels::device
