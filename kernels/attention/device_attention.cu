#include "kernels/attention/device_attention.h"
#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"

namespace outrider::kernels {
namespace {

using device::ClampF16;
using device::CommitCopies;
using device::Copy16;
using device::FastExp;
using device::LetLaterKernelsStart;
using device::LoadMatrices2;
using device::LoadMatrices2Transposed;
using device::MmaF16;
using device::PackBf16;
using device::PackF16;
using device::SharedAddress;
using device::WaitCopies;
using device::WaitForEarlierKernels;
using device::WarpMax;
using device::WarpSum;

constexpr int kRange = kAttentionRangeSize;
constexpr int kScoreStride = kRange + 8;  // floats; rows begin in different banks
constexpr float kNone = -__builtin_huge_valf();

// ---- rope and append: a block some heads of a row, a thread a pair of elements

__global__ void __launch_bounds__(256) RopeAppend(const DeviceRopeAppendArgs args) {
  LetLaterKernelsStart();
  WaitForEarlierKernels();
  const int row = blockIdx.x;
  const int head_dim = args.layout.head_dim, num_kv_heads = args.layout.num_kv_heads;
  const int num_pairs = head_dim / 2, num_turned = args.rotary_dim / 2;
  const int num_rope_heads = args.num_heads + num_kv_heads;
  const int kv_slot = args.kv_slots[row];
  const int64_t block = kv_slot / args.layout.block_size;
  const int slot = kv_slot % args.layout.block_size;
  uint16_t* const qkv = args.qkv + row * args.qkv_stride;
  const float* const cosines = args.cos_sin + static_cast<int64_t>(args.positions[row]) * args.rotary_dim;
  const float* const sines = cosines + num_turned;
  __half* const k_storage = static_cast<__half*>(args.k_storage);
  __half* const v_storage = static_cast<__half*>(args.v_storage);
  const auto value = [&](int index) { return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(qkv)[index]); };
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i < (num_rope_heads + num_kv_heads) * num_pairs) {
    const int head = i / num_pairs, pair = i % num_pairs;
    // The pair's two elements within the head.
    int first = 2 * pair, second = 2 * pair + 1;
    if (!args.interleaved && pair < num_turned) {
      first = pair;
      second = pair + num_turned;
    }
    float a = value(head * head_dim + first), b = value(head * head_dim + second);
    if (head < num_rope_heads && pair < num_turned) {
      const float c = cosines[pair], s = sines[pair];
      const float turned = a * c - b * s;
      b = a * s + b * c;
      a = turned;
    }
    const __half a16 = __float2half_rn(ClampF16(a)), b16 = __float2half_rn(ClampF16(b));
    if (head < args.num_heads) {
      reinterpret_cast<__half*>(qkv)[head * head_dim + first] = a16;
      reinterpret_cast<__half*>(qkv)[head * head_dim + second] = b16;
    } else if (kv_slot >= 0) {
      const bool is_key = head < num_rope_heads;
      const int kv_head = is_key ? head - args.num_heads : head - num_rope_heads;
      __half* const to = (is_key ? k_storage : v_storage) + args.layout.slot(block, kv_head, slot);
      to[first] = a16;
      to[second] = b16;
    }
  }
}

// ---- attention

struct AttentionView {
  const uint16_t* q;
  __nv_bfloat16* out;
  int64_t q_stride, out_stride;
  int num_heads;
  int group;
  float scale;
  int sliding_window;
  DeviceKvLayout layout;
  const __half *k_storage, *v_storage;
  const DeviceAttentionTile* tiles;
  const int32_t* block_tables;
  // Of split tiles: [partial][kv_head][pair 16][head_dim], then maximum and sum [..][pair][2], then arrivals.
  float* partial_values;
  float2* partial_sums;
  int32_t* arrivals;
};

// A row's softmax so far: ranges are merged in ascending order.
struct Running {
  float max = kNone;
  float sum = 0;
};
// What the sums so far and those of the next range are multiplied with.
struct Merge {
  float of_running, of_next;
};
__device__ __forceinline__ Merge MergeRange(Running& running, float max, float sum) {
  if (max == kNone) return {1.0f, 0.0f};  // nothing of this range is visible
  if (running.max == kNone) {
    running = {max, sum};
    return {0.0f, 1.0f};
  }
  const float new_max = fmaxf(running.max, max);
  const Merge merge{FastExp(running.max - new_max), FastExp(max - new_max)};
  running.sum = running.sum * merge.of_running + sum * merge.of_next;
  running.max = new_max;
  return merge;
}
__device__ __forceinline__ float MergeValue(const Merge& merge, float running, float next) {
  if (merge.of_next == 0.0f && merge.of_running == 1.0f) return running;
  if (merge.of_running == 0.0f && merge.of_next == 1.0f) return next;
  return running * merge.of_running + next * merge.of_next;
}

// Rows of keys and values in shared memory: 16-byte pieces swapped about so that eight rows' equal pieces lie in
// different banks.
template <int kHeadDim>
__device__ __forceinline__ uint32_t PieceOffset(int row, int piece) {
  constexpr int kPieces = kHeadDim / 8;
  constexpr int kSpread = kPieces < 8 ? kPieces : 8;
  const int swapped = piece ^ (row / (8 / kSpread) & (kSpread - 1));
  return static_cast<uint32_t>((row * kPieces + swapped) * 16);
}

// How a block is built. None of it changes a sum's order.
enum class Build : uint8_t {
  kFast,  // one tile of 16 pairs; keys and values of a range side by side: for few blocks, soonest done
  // One tile; the second half of the values takes the keys' place, so that two blocks fit a multiprocessor and one
  // computes while the other loads: for many blocks.
  kCompact,
  kWide,  // four tiles, one a warp: many rows share each load of keys and values
};

template <int kHeadDim, Build kBuild>
struct AttentionShape {
  static constexpr int kTiles = kBuild == Build::kWide ? 4 : 1;  // of 16 pairs
  static constexpr int kWarps = kBuild == Build::kWide ? 4 : 8;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kStorageBytes = kRange * kHeadDim * 2;
  static constexpr int kValueBytes = kBuild == Build::kCompact ? kStorageBytes / 2 : kStorageBytes;
  static constexpr int kScoreBytes = kTiles * 16 * kScoreStride * 4;
  static constexpr int kBytes = kStorageBytes + kValueBytes + kScoreBytes + kTiles * 16 * 8;
  static constexpr int kSteps = kHeadDim / 16;        // of K in a score
  static constexpr int kValueColumns = kHeadDim / 8;  // groups of 8 columns of values
  static constexpr int kColumnsAWarp = kTiles == 1 ? (kValueColumns + kWarps - 1) / kWarps : kValueColumns;
  static_assert(kTiles == 1 || kTiles == kWarps);
  static_assert(kBuild != Build::kCompact || 2 * (kBytes + 1024 + 128) <= 228 * 1024);
};

// grid: (tiles, KV heads, splits). With more than one split a block computes one range, and the last of a tile's blocks
// to end merges them; otherwise a block walks all ranges of its tile.
template <int kHeadDim, Build kBuild>
__global__ void __launch_bounds__(AttentionShape<kHeadDim, kBuild>::kThreads, kBuild == Build::kCompact ? 2 : 1)
    Attention(const AttentionView view) {
  using Shape = AttentionShape<kHeadDim, kBuild>;
  constexpr int kTiles = Shape::kTiles, kWarps = Shape::kWarps, kThreads = Shape::kThreads;
  constexpr bool kHalves = kBuild == Build::kCompact;
  extern __shared__ __align__(128) uint8_t shared[];
  uint8_t* const keys = shared;
  uint8_t* const values = shared + Shape::kStorageBytes;
  float* const scores = reinterpret_cast<float*>(values + Shape::kValueBytes);
  float2* const range_sums = reinterpret_cast<float2*>(values + Shape::kValueBytes + Shape::kScoreBytes);
  __shared__ int is_last;

  LetLaterKernelsStart();
  WaitForEarlierKernels();
  const DeviceAttentionTile tile = view.tiles[blockIdx.x];
  const int kv_head = blockIdx.y;
  const bool split = gridDim.z > 1;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const auto position_of = [&](int pair) {
    return pair < tile.num_pairs ? tile.first_position + (tile.first_pair + pair) / view.group : -1;
  };
  const auto row_of = [&](int pair) { return tile.first_row + (tile.first_pair + pair) / view.group; };
  const auto head_of = [&](int pair) { return kv_head * view.group + (tile.first_pair + pair) % view.group; };
  const int last_position = position_of(tile.num_pairs - 1);
  // The oldest position that a pair sees.
  const auto oldest_of = [&](int position) {
    return view.sliding_window > 0 ? max(0, position + 1 - view.sliding_window) : 0;
  };
  // Ranges are those of absolute positions, so a window leaves whole ranges out and changes no other's sums.
  const int num_ranges = last_position / kRange + 1;
  const int oldest_range = oldest_of(position_of(0)) / kRange;
  const int first_range = split ? static_cast<int>(blockIdx.z) : oldest_range;
  const int end_range = split ? first_range + 1 : num_ranges;
  if (first_range < oldest_range || first_range >= num_ranges) return;

  // Rows [first, end) of a range's positions. Those beyond the last are zeros: their weights are zero too, and zero
  // times what memory held need not be.
  const auto load = [&](const __half* storage, uint8_t* to, int range, int first, int end) {
    constexpr int kPieces = kHeadDim / 8;
    const int num_positions = min(kRange, last_position + 1 - range * kRange);
    const int end_loaded = min(end, (num_positions + 15) / 16 * 16);
    const uint32_t to_shared = SharedAddress(to);
    for (int i = first * kPieces + threadIdx.x; i < end_loaded * kPieces; i += kThreads) {
      const int row = i / kPieces, piece = i % kPieces;
      const int position = min(range * kRange + row, last_position);
      const int64_t block = view.block_tables[tile.block_table + position / view.layout.block_size];
      const __half* const from =
          storage + view.layout.slot(block, kv_head, position % view.layout.block_size) + piece * 8;
      Copy16(to_shared + PieceOffset<kHeadDim>(row - first, piece), from, row < num_positions);
    }
    CommitCopies();
  };
  constexpr int kFirstValues = kHalves ? kRange / 2 : kRange;
  load(view.k_storage, keys, first_range, 0, kRange);
  load(view.v_storage, values, first_range, 0, kFirstValues);

  // This warp's tile of pairs; with one tile, all warps have the same and share its positions and columns.
  const int tile_index = kTiles == 1 ? 0 : warp;
  uint32_t q[Shape::kSteps][4];
  {
    const auto load_q = [&](int pair, int column) -> uint32_t {
      if (pair >= tile.num_pairs) return 0;
      return *reinterpret_cast<const uint32_t*>(view.q + row_of(pair) * view.q_stride + head_of(pair) * kHeadDim +
                                                column);
    };
    const int pair = tile_index * 16 + g;
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      q[step][0] = load_q(pair, step * 16 + t * 2);
      q[step][1] = load_q(pair + 8, step * 16 + t * 2);
      q[step][2] = load_q(pair, step * 16 + t * 2 + 8);
      q[step][3] = load_q(pair + 8, step * 16 + t * 2 + 8);
    }
  }

  Running running[2];
  float out[Shape::kColumnsAWarp][4] = {};
  for (int range = first_range; range < end_range; ++range) {
    const int num_positions = min(kRange, last_position + 1 - range * kRange);
    WaitCopies<1>();
    __syncthreads();

    // scores = q k^T: groups of 8 positions
    const int num_groups = (num_positions + 7) / 8;
    const int first_group = kTiles == 1 ? warp * (kRange / 8 / kWarps) : 0;
    const int end_group = min(num_groups, kTiles == 1 ? first_group + kRange / 8 / kWarps : kRange / 8);
    for (int group = first_group; group < end_group; ++group) {
      float score[4] = {};
#pragma unroll
      for (int step = 0; step < Shape::kSteps; ++step) {
        uint32_t b0, b1;
        LoadMatrices2(SharedAddress(keys) + PieceOffset<kHeadDim>(group * 8 + lane % 8, step * 2 + lane / 8 % 2), b0,
                      b1);
        MmaF16(score, q[step], b0, b1);
      }
      float* const to = scores + (tile_index * 16 + g) * kScoreStride + group * 8 + t * 2;
      *reinterpret_cast<float2*>(to) = make_float2(score[0], score[1]);
      *reinterpret_cast<float2*>(to + 8 * kScoreStride) = make_float2(score[2], score[3]);
    }
    __syncthreads();
    if constexpr (kHalves) {
      load(view.v_storage, keys, range, kFirstValues, kRange);
    } else if (range + 1 < end_range) {
      load(view.k_storage, keys, range + 1, 0, kRange);
    } else {
      CommitCopies();
    }

    // Weights of each pair: a warp a pair.
    for (int pair = warp; pair < kTiles * 16; pair += kWarps) {
      float* const row = scores + pair * kScoreStride;
      const int num_visible = position_of(pair) + 1 - range * kRange;
      const int first_visible = oldest_of(position_of(pair)) - range * kRange;
      float score[kRange / 32];
      float max = kNone;
#pragma unroll
      for (int i = 0; i < kRange / 32; ++i) {
        const int slot = i * 32 + lane;
        score[i] = slot < num_visible && slot >= first_visible ? row[slot] * view.scale : kNone;
        max = fmaxf(max, score[i]);
      }
      max = WarpMax(max);
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kRange / 32; ++i) {
        const int slot = i * 32 + lane;
        const float weight = slot < num_visible && slot >= first_visible ? FastExp(score[i] - max) : 0.0f;
        row[slot] = weight;
        sum += weight;
      }
      sum = WarpSum(sum);
      if (lane == 0) range_sums[pair] = make_float2(max, sum);
    }
    WaitCopies<1>();
    __syncthreads();

    // values weighted: 16 positions a step
    float next[Shape::kColumnsAWarp][4] = {};
    const int num_steps = (num_positions + 15) / 16;
    for (int step = 0; step < num_steps; ++step) {
      if (kHalves && step == kFirstValues / 16) {
        WaitCopies<0>();
        __syncthreads();
      }
      const uint8_t* const rows = kHalves && step >= kFirstValues / 16 ? keys : values;
      const int row = kHalves ? step % (kFirstValues / 16) * 16 : step * 16;
      const float* const from = scores + (tile_index * 16 + g) * kScoreStride + step * 16 + t * 2;
      const float2 w0 = *reinterpret_cast<const float2*>(from);
      const float2 w1 = *reinterpret_cast<const float2*>(from + 8 * kScoreStride);
      const float2 w2 = *reinterpret_cast<const float2*>(from + 8);
      const float2 w3 = *reinterpret_cast<const float2*>(from + 8 * kScoreStride + 8);
      const uint32_t weights[4] = {PackF16(w0.x, w0.y), PackF16(w1.x, w1.y), PackF16(w2.x, w2.y), PackF16(w3.x, w3.y)};
#pragma unroll
      for (int i = 0; i < Shape::kColumnsAWarp; ++i) {
        const int column = kTiles == 1 ? i * kWarps + warp : i;
        if (column >= Shape::kValueColumns) break;
        uint32_t b0, b1;
        LoadMatrices2Transposed(SharedAddress(rows) + PieceOffset<kHeadDim>(row + lane % 16, column), b0, b1);
        MmaF16(next[i], weights, b0, b1);
      }
    }

    const float2 sums[2] = {range_sums[tile_index * 16 + g], range_sums[tile_index * 16 + g + 8]};
    if (split) {
      const int64_t partial = static_cast<int64_t>(tile.first_partial + range) * view.layout.num_kv_heads + kv_head;
#pragma unroll
      for (int i = 0; i < Shape::kColumnsAWarp; ++i) {
        const int column = kTiles == 1 ? i * kWarps + warp : i;
        if (column >= Shape::kValueColumns) break;
        float* const to = view.partial_values + (partial * 16 + g) * kHeadDim + column * 8 + t * 2;
        *reinterpret_cast<float2*>(to) = make_float2(next[i][0], next[i][1]);
        *reinterpret_cast<float2*>(to + 8 * kHeadDim) = make_float2(next[i][2], next[i][3]);
      }
      if (threadIdx.x < 16) view.partial_sums[partial * 16 + threadIdx.x] = range_sums[threadIdx.x];
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Merge merge = MergeRange(running[half], sums[half].x, sums[half].y);
#pragma unroll
        for (int i = 0; i < Shape::kColumnsAWarp; ++i) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) out[i][e] = MergeValue(merge, out[i][e], next[i][e]);
        }
      }
    }
    __syncthreads();
    if (range + 1 < end_range) {
      if constexpr (kHalves) load(view.k_storage, keys, range + 1, 0, kRange);
      load(view.v_storage, values, range + 1, 0, kFirstValues);
    } else {
      CommitCopies();
    }
  }

  if (!split) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pair = tile_index * 16 + g + 8 * half;
      if (pair >= tile.num_pairs) continue;
      __nv_bfloat16* const to = view.out + row_of(pair) * view.out_stride + head_of(pair) * kHeadDim;
#pragma unroll
      for (int i = 0; i < Shape::kColumnsAWarp; ++i) {
        const int column = kTiles == 1 ? i * kWarps + warp : i;
        if (column >= Shape::kValueColumns) break;
        *reinterpret_cast<uint32_t*>(to + column * 8 + t * 2) = PackBf16(
            __fdiv_rn(out[i][2 * half], running[half].sum), __fdiv_rn(out[i][2 * half + 1], running[half].sum));
      }
    }
    return;
  }

  // The last of the tile's blocks merges.
  __threadfence();
  __syncthreads();
  int32_t* const arrivals =
      view.arrivals + static_cast<int64_t>(tile.first_partial) * view.layout.num_kv_heads + kv_head;
  if (threadIdx.x == 0) is_last = atomicAdd(arrivals, 1) == num_ranges - oldest_range - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  if (threadIdx.x == 0) *arrivals = 0;
  for (int i = threadIdx.x; i < tile.num_pairs * (kHeadDim / 2); i += kThreads) {
    const int pair = i / (kHeadDim / 2), column = i % (kHeadDim / 2) * 2;
    Running merged;
    float2 sum = make_float2(0, 0);
    // Several ranges are on their way at once; they merge in order all the same.
    constexpr int kAtOnce = 8;
    for (int first = oldest_range; first < num_ranges; first += kAtOnce) {
      float2 sums[kAtOnce], next[kAtOnce];
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        if (first + r >= num_ranges) break;
        const int64_t partial =
            static_cast<int64_t>(tile.first_partial + first + r) * view.layout.num_kv_heads + kv_head;
        sums[r] = __ldcg(view.partial_sums + partial * 16 + pair);
        next[r] =
            __ldcg(reinterpret_cast<const float2*>(view.partial_values + (partial * 16 + pair) * kHeadDim + column));
      }
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        if (first + r >= num_ranges) break;
        const Merge merge = MergeRange(merged, sums[r].x, sums[r].y);
        sum.x = MergeValue(merge, sum.x, next[r].x);
        sum.y = MergeValue(merge, sum.y, next[r].y);
      }
    }
    __nv_bfloat16* const to = view.out + row_of(pair) * view.out_stride + head_of(pair) * kHeadDim + column;
    *reinterpret_cast<uint32_t*>(to) = PackBf16(__fdiv_rn(sum.x, merged.sum), __fdiv_rn(sum.y, merged.sum));
  }
}

template <int kHeadDim>
KernelError LaunchHeadDim(const DeviceAttentionArgs& args, AttentionView view, Stream stream) {
  const unsigned num_narrow = static_cast<unsigned>(args.plan->num_narrow());
  const unsigned num_wide = static_cast<unsigned>(args.plan->tiles().size()) - num_narrow;
  const unsigned num_kv_heads = static_cast<unsigned>(args.layout.num_kv_heads);
  const auto launch = [&]<Build kBuild>(unsigned num_tiles, unsigned num_splits) {
    using Shape = AttentionShape<kHeadDim, kBuild>;
    return Launch(
        Attention<kHeadDim, kBuild>,
        {.grid = dim3(num_tiles, num_kv_heads, num_splits), .block = Shape::kThreads, .shared_bytes = Shape::kBytes},
        stream, view);
  };
  if (num_narrow > 0) {
    const unsigned num_splits = static_cast<unsigned>(args.plan->num_splits());
    const KernelError error = num_splits > 1 ? launch.template operator()<Build::kFast>(num_narrow, num_splits)
                                             : launch.template operator()<Build::kCompact>(num_narrow, 1);
    if (error != KernelError::kOk) return error;
  }
  if (num_wide > 0) {
    view.tiles += num_narrow;
    return launch.template operator()<Build::kWide>(num_wide, 1);
  }
  return KernelError::kOk;
}

}  // namespace

KernelError DeviceRopeAppend(const DeviceRopeAppendArgs& args, Stream stream) {
  if (args.layout.Check() != KernelError::kOk || args.num_rows < 0 || args.num_heads < 0 || args.rotary_dim % 2 != 0 ||
      args.rotary_dim > args.layout.head_dim ||
      args.qkv_stride < int64_t{args.num_heads + 2 * args.layout.num_kv_heads} * args.layout.head_dim) {
    return KernelError::kInvalidShape;
  }
  if (args.num_rows == 0) return KernelError::kOk;
  if (args.qkv == nullptr || args.positions == nullptr || args.kv_slots == nullptr || args.k_storage == nullptr ||
      args.v_storage == nullptr) {
    return KernelError::kNullPointer;
  }
  const int num_pairs = (args.num_heads + 2 * args.layout.num_kv_heads) * args.layout.head_dim / 2;
  return Launch(RopeAppend,
                {.grid = dim3(static_cast<unsigned>(args.num_rows), static_cast<unsigned>((num_pairs + 255) / 256)),
                 .block = 256},
                stream, args);
}

KernelError DeviceAttention(const DeviceAttentionArgs& args, Stream stream) {
  if (args.layout.Check() != KernelError::kOk || args.num_heads < 1 ||
      args.num_heads % args.layout.num_kv_heads != 0 || args.sliding_window < 0) {
    return KernelError::kInvalidShape;
  }
  if (args.plan->tiles().empty()) return KernelError::kOk;
  if (args.q == nullptr || args.out == nullptr || args.tiles == nullptr || args.block_tables == nullptr ||
      args.workspace == nullptr) {
    return KernelError::kNullPointer;
  }
  AttentionView view{.q = args.q,
                     .out = reinterpret_cast<__nv_bfloat16*>(args.out),
                     .q_stride = args.q_stride,
                     .out_stride = args.out_stride,
                     .num_heads = args.num_heads,
                     .group = args.num_heads / args.layout.num_kv_heads,
                     .scale = args.scale,
                     .sliding_window = args.sliding_window,
                     .layout = args.layout,
                     .k_storage = static_cast<const __half*>(args.k_storage),
                     .v_storage = static_cast<const __half*>(args.v_storage),
                     .tiles = args.tiles,
                     .block_tables = args.block_tables};
  view.partial_values = static_cast<float*>(args.workspace);
  view.partial_sums =
      reinterpret_cast<float2*>(view.partial_values + args.num_partials_max * 16 * args.layout.head_dim);
  view.arrivals = reinterpret_cast<int32_t*>(view.partial_sums + args.num_partials_max * 16);
  switch (args.layout.head_dim) {
    case 16:
      return LaunchHeadDim<16>(args, view, stream);
    case 32:
      return LaunchHeadDim<32>(args, view, stream);
    case 64:
      return LaunchHeadDim<64>(args, view, stream);
    case 128:
      return LaunchHeadDim<128>(args, view, stream);
  }
  return KernelError::kInvalidShape;
}

}  // namespace outrider::kernels
