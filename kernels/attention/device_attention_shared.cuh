// What the attention kernels of device_attention.h share: their arguments, how ranges merge, and where rows lie in
// shared memory.
#pragma once

#include "kernels/attention/device_attention.h"
#include "kernels/common/cuda_device.cuh"

namespace outrider::kernels::device {

inline constexpr int kRange = kAttentionRangeSize;
inline constexpr float kNone = -__builtin_huge_valf();

// What turns q and k, and where k and v of the step go: of kernels that append on the way.
struct RopeView {
  const int32_t* kv_slots;
  const float* cos_sin;
  int rotary_dim;
  bool interleaved;
  __half *k_storage, *v_storage;
};

// DeviceAttentionArgs as a kernel sees it.
struct AttentionView {
  const uint16_t* q;
  __nv_bfloat16* out;
  int64_t q_stride, out_stride;
  int num_heads;
  int group;  // heads of a KV head
  float scale;
  int sliding_window;
  DeviceKvLayout layout;
  const __half *k_storage, *v_storage;
  const DeviceAttentionTile* tiles;
  const int32_t* block_tables;
  RopeView rope;  // q is as the product left it, k and v are beside it; else all zero
  // Of split tiles: [partial][kv_head][pair 16][head_dim], then maximum and sum [..][pair][2], then arrivals. A range
  // of a tile has a partial for each 16 of its pairs.
  float* partial_values;
  float2* partial_sums;
  int32_t* arrivals;
};

// What a step was given, read before the kernels ahead have ended: not by way of the first-level cache, which may still
// hold what lay there in the step before.
__device__ __forceinline__ int32_t LoadInput(const int32_t* at) { return __ldcg(at); }
__device__ __forceinline__ DeviceAttentionTile LoadInput(const DeviceAttentionTile* at) {
  return {LoadInput(&at->first_row), LoadInput(&at->first_position), LoadInput(&at->first_pair),
          LoadInput(&at->num_pairs), LoadInput(&at->block_table),    LoadInput(&at->first_partial)};
}

// A tile for one KV head: where its pairs are, and what they see.
struct TileView {
  const AttentionView& view;
  DeviceAttentionTile tile;
  int kv_head;

  __device__ __forceinline__ int row_of(int pair) const {
    return tile.first_row + (tile.first_pair + pair) / view.group;
  }
  __device__ __forceinline__ int head_of(int pair) const {
    return kv_head * view.group + (tile.first_pair + pair) % view.group;
  }
  // -1 beyond the last pair: sees nothing.
  __device__ __forceinline__ int position_of(int pair) const {
    return pair < tile.num_pairs ? tile.first_position + (tile.first_pair + pair) / view.group : -1;
  }
  __device__ __forceinline__ int last_position() const { return position_of(tile.num_pairs - 1); }
  // The oldest position that one sees.
  __device__ __forceinline__ int oldest_of(int position) const {
    return view.sliding_window > 0 ? max(0, position + 1 - view.sliding_window) : 0;
  }
  // Ranges are those of absolute positions, so a window leaves whole ranges out and changes no other's sums.
  __device__ __forceinline__ int num_ranges() const { return last_position() / kRange + 1; }
  __device__ __forceinline__ int oldest_range() const { return oldest_of(position_of(0)) / kRange; }
  // Where a pair's partial results of a range lie.
  __device__ __forceinline__ int64_t partial(int range, int pair) const {
    const int partials_a_range = (tile.num_pairs + 15) / 16;
    const int64_t sixteen = tile.first_partial + range * partials_a_range + pair / 16;
    return (sixteen * view.layout.num_kv_heads + kv_head) * 16 + pair % 16;
  }
  __device__ __forceinline__ const uint16_t* q_of(int pair, int head_dim) const {
    return view.q + row_of(pair) * view.q_stride + static_cast<int64_t>(head_of(pair)) * head_dim;
  }
  __device__ __forceinline__ __nv_bfloat16* out_of(int pair, int head_dim) const {
    return view.out + row_of(pair) * view.out_stride + static_cast<int64_t>(head_of(pair)) * head_dim;
  }
};

// Which two elements of a head a pair is, and their turning by the pair's cosine and sine.
__device__ __forceinline__ int2 ElementsOfPair(int pair, int num_turned, bool interleaved) {
  return !interleaved && pair < num_turned ? make_int2(pair, pair + num_turned) : make_int2(2 * pair, 2 * pair + 1);
}
__device__ __forceinline__ float2 Turned(float2 v, float2 cos_sin) {
  return make_float2(v.x * cos_sin.x - v.y * cos_sin.y, v.x * cos_sin.y + v.y * cos_sin.x);
}

// The exponent of a power of two.
__device__ __forceinline__ int ExponentOf(int power_of_two) { return 31 - __clz(power_of_two); }

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

// Weights of a range from a row of its scores [kRange] in shared memory, by a warp; returns their maximum and sum. What
// is visible are the positions [first_visible, num_visible) of the range: others weigh nothing.
__device__ __forceinline__ float2 WeightsOfRange(float* row, float scale, int first_visible, int num_visible) {
  const int lane = threadIdx.x % 32;
  float score[kRange / 32];
  float max = kNone;
#pragma unroll
  for (int i = 0; i < kRange / 32; ++i) {
    const int slot = i * 32 + lane;
    score[i] = slot < num_visible && slot >= first_visible ? row[slot] * scale : kNone;
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
  return make_float2(max, WarpSum(sum));
}

// The same in the accumulators' own places: lane = 4 g + t of a warp holds in scores[n] the
// positions 8 n + 2 t and 8 n + 2 t + 1 of row g and, with two halves, of row g + 8. What is visible to a row are the
// positions [first_visible, num_visible) of the range. Scores become weights exp(score * scale - max); the sums are
// those of device_attention.h: 8 a lane ascending, then lanes by halves, where "lane" is the position modulo 32.
template <int kHalves>
__device__ __forceinline__ void SoftmaxOfRange(float (&scores)[32][2 * kHalves], float scale,
                                               const int (&first_visible)[kHalves], const int (&num_visible)[kHalves],
                                               bool all_visible, float (&max)[kHalves], float (&sum)[kHalves]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    float most = kNone;
    if (all_visible) {
#pragma unroll
      for (int n = 0; n < 32; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[n][2 * half + e];
          score = score * scale;
          most = fmaxf(most, score);
        }
      }
    } else {
#pragma unroll
      for (int n = 0; n < 32; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int slot = 8 * n + 2 * t + e;
          float& score = scores[n][2 * half + e];
          score = slot < num_visible[half] && slot >= first_visible[half] ? score * scale : kNone;
          most = fmaxf(most, score);
        }
      }
    }
    most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 1));
    most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 2));
    max[half] = most;
    // With nothing visible every score is minus infinity: minus zero's exponential is 0.
    const float subtracted = most == kNone ? 0.0f : most;
    float lane_sums[4][2] = {};
#pragma unroll
    for (int n = 0; n < 32; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[n][2 * half + e];
        score = FastExp(score - subtracted);
        lane_sums[n % 4][e] += score;
      }
    }
    float by_sixteen[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      by_sixteen[e] = (lane_sums[0][e] + lane_sums[2][e]) + (lane_sums[1][e] + lane_sums[3][e]);
      by_sixteen[e] += __shfl_xor_sync(kFullWarp, by_sixteen[e], 2);
      by_sixteen[e] += __shfl_xor_sync(kFullWarp, by_sixteen[e], 1);
    }
    sum[half] = by_sixteen[0] + by_sixteen[1];
  }
}

// A block's partial results of one range are written: the last of the tile's blocks merges them all, ascending.
// `num_threads` threads of the block call it; `barrier` is theirs.
template <int kHeadDim>
__device__ __forceinline__ void MergePartials(const TileView& tile, int oldest_range, int num_ranges, int barrier,
                                              int num_threads) {
  const AttentionView& view = tile.view;
  __shared__ int is_last;
  __threadfence();
  SyncNamed(barrier, num_threads);
  int32_t* const arrivals =
      view.arrivals + static_cast<int64_t>(tile.tile.first_partial) * view.layout.num_kv_heads + tile.kv_head;
  if (threadIdx.x == 0) is_last = atomicAdd(arrivals, 1) == num_ranges - oldest_range - 1;
  SyncNamed(barrier, num_threads);
  if (!is_last) return;
  __threadfence();
  if (threadIdx.x == 0) *arrivals = 0;
  constexpr int kFours = kHeadDim / 4;
#pragma unroll 2
  for (int i = threadIdx.x; i < tile.tile.num_pairs * kFours; i += num_threads) {
    const int pair = i / kFours, column = i % kFours * 4;
    Running merged;
    float4 sum = make_float4(0, 0, 0, 0);
    // Several ranges are on their way at once; they merge in order all the same.
    constexpr int kAtOnce = 5;
    for (int first = oldest_range; first < num_ranges; first += kAtOnce) {
      float2 sums[kAtOnce];
      float4 next[kAtOnce];
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        if (first + r >= num_ranges) break;
        const int64_t partial = tile.partial(first + r, pair);
        sums[r] = __ldcg(view.partial_sums + partial);
        next[r] = __ldcg(reinterpret_cast<const float4*>(view.partial_values + partial * kHeadDim + column));
      }
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        if (first + r >= num_ranges) break;
        const Merge merge = MergeRange(merged, sums[r].x, sums[r].y);
        sum = make_float4(MergeValue(merge, sum.x, next[r].x), MergeValue(merge, sum.y, next[r].y),
                          MergeValue(merge, sum.z, next[r].z), MergeValue(merge, sum.w, next[r].w));
      }
    }
    *reinterpret_cast<uint2*>(tile.out_of(pair, kHeadDim) + column) =
        make_uint2(PackBf16(__fdiv_rn(sum.x, merged.sum), __fdiv_rn(sum.y, merged.sum)),
                   PackBf16(__fdiv_rn(sum.z, merged.sum), __fdiv_rn(sum.w, merged.sum)));
  }
}

// launch.operator()<head_dim>() of the head sizes that there are kernels for.
template <typename Launch>
KernelError ForHeadDim(int head_dim, Launch launch) {
  switch (head_dim) {
    case 16:
      return launch.template operator()<16>();
    case 32:
      return launch.template operator()<32>();
    case 64:
      return launch.template operator()<64>();
    case 128:
      return launch.template operator()<128>();
  }
  return KernelError::kInvalidShape;
}

// With `turns`, q and k are turned and k and v stored on the way; REQUIRES: plan->whole_spans().
KernelError LaunchAttentionBlocks(const DeviceAttentionArgs& args, const AttentionView& view, bool turns,
                                  Stream stream);
KernelError LaunchAttentionWarps(const DeviceAttentionArgs& args, const AttentionView& view, Stream stream);
KernelError LaunchAttentionPrompts(const DeviceAttentionArgs& args, const AttentionView& view, Stream stream);

}  // namespace outrider::kernels::device
