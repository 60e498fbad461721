// Attention of long spans: wgmma, 128 pairs of row and head a block for a KV head. Two warpgroups compute 64 pairs
// each, in turn: one turns scores into weights while the other multiplies. A third keeps a ring of keys and values
// ahead of them, 128 positions a stage. Scores and weights never leave the registers.
//
// The order of every sum is that of device_attention.h.
#include "kernels/attention/device_attention_shared.cuh"
#include "kernels/attention/device_attention_wgmma.cuh"
#include "kernels/common/cuda_launch.h"

namespace outrider::kernels::device {
namespace {

constexpr int kGroupPairs = 64;  // of a warpgroup
constexpr int kGroups = DeviceAttentionPlan::kWidePairs / kGroupPairs;
constexpr int kThreads = (kGroups + 1) * 128;
constexpr int kPartRows = 128;  // positions a stage
constexpr int kParts = kRange / kPartRows;
constexpr int kNumStages = 6;
// Stages asked for beyond the one that is waited for: a stage is announced once its copies are seen to have ended.
constexpr int kAhead = 2;
static_assert(kGroups == 2 && kParts == 2);

// What a stage holds, atom by atom: [atom][position 128][64 elements, or all if the head has fewer].
template <int kHeadDim>
struct PromptShape {
  static constexpr int kAtom = kHeadDim < 64 ? kHeadDim : 64;
  static constexpr int kAtoms = kHeadDim / kAtom;
  static constexpr int kRowBytes = kAtom * 2;
  static constexpr int kAtomBytes = kPartRows * kRowBytes;
  static constexpr int kStageBytes = kAtoms * kAtomBytes;
  static constexpr int kQBytes = kGroupPairs * kHeadDim * 2;  // of a warpgroup: [atom][pair 64][kAtom]
  static constexpr int kBytes = kNumStages * kStageBytes + kGroups * kQBytes + kNumStages * 16 + 1024;
};

// grid: (KV heads, tiles, splits), the tiles that see most first.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1) AttentionPrompt(const AttentionView view) {
  using Shape = PromptShape<kHeadDim>;
  constexpr int kSteps = kHeadDim / 16;   // of K in a score
  constexpr int kColumns = kHeadDim / 8;  // groups of 8 columns of values
  extern __shared__ uint8_t unaligned[];
  uint8_t* const shared = unaligned + (1024 - (SharedAddress(unaligned) & 1023)) % 1024;
  uint8_t* const q_rows = shared + kNumStages * Shape::kStageBytes;
  const uint32_t full = SharedAddress(q_rows + kGroups * Shape::kQBytes);
  const uint32_t empty = full + kNumStages * 8;
  const int warpgroup = threadIdx.x / 128;

  // The step's inputs are there since before its first kernel, keys and values of positions before the span's for
  // longer: neither waits for the kernels ahead.
  const TileView tile{view, LoadInput(view.tiles + (gridDim.y - 1 - blockIdx.y)), static_cast<int>(blockIdx.x)};
  const bool split = gridDim.z > 1;
  const int last_position = tile.last_position();
  const int oldest_range = tile.oldest_range(), num_ranges = tile.num_ranges();
  const int first_range = split ? static_cast<int>(blockIdx.z) : oldest_range;
  const int end_range = split ? first_range + 1 : num_ranges;
  if (first_range < oldest_range || first_range >= num_ranges) return;
  const int num_groups = tile.tile.num_pairs > kGroupPairs ? 2 : 1;  // warpgroups that have pairs

  if (threadIdx.x == 0) {
    for (int i = 0; i < kNumStages; ++i) {
      InitBarrier(full + i * 8, 128);
      InitBarrier(empty + i * 8, num_groups * 4);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  LetLaterKernelsStart();
  const auto positions_of = [&](int range) { return min(kRange, last_position + 1 - range * kRange); };

  if (warpgroup == kGroups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    const int thread = threadIdx.x % 128;
    const int shift = ExponentOf(view.layout.block_size);
    int stage = 0, num_asked = 0, announced = 0;
    uint32_t parity = 1;
    bool has_waited = false;
    const auto announce = [&] {
      FenceSharedForCopies();
      Arrive(full + announced * 8);
      announced = announced + 1 == kNumStages ? 0 : announced + 1;
    };
    // Lane i has the block of the i-th 16 positions of the stage.
    const auto block_of = [&](int range, int first) {
      const int position = range * kRange + first + thread % (kPartRows / 16) * 16;
      return LoadInput(view.block_tables + tile.tile.block_table + (min(position, last_position) >> shift));
    };
    int32_t next_block = block_of(first_range, 0);
    for (int range = first_range; range < end_range; ++range) {
      const int num_positions = positions_of(range);
      for (int turn = 0; turn < 2 * kParts; ++turn) {
        const int first = turn % kParts * kPartRows;
        if (first >= num_positions) continue;
        const int32_t block = next_block;
        // The second part of the range, or the first of its values or of the next range.
        const int next_first = first == 0 && num_positions > kPartRows ? kPartRows : 0;
        next_block = block_of(turn < kParts || next_first > 0 ? range : range + 1, next_first);
        WaitBarrier(empty + stage * 8, parity);
        const uint32_t to = SharedAddress(shared) + stage * Shape::kStageBytes;
        if (!has_waited && range * kRange + first + kPartRows > tile.tile.first_position) {
          WaitForEarlierKernels();
          has_waited = true;
        }
        const __half* const storage = turn < kParts ? view.k_storage : view.v_storage;
        constexpr int kPieces = kHeadDim / 8;  // of 16 bytes in a row, swapped about as they are to lie
        constexpr int kAtomPieces = Shape::kAtom / 8;
#pragma unroll 4
        for (int i = thread; i < kPartRows * kPieces; i += 128) {
          const int row = i / kPieces, piece = i % kPieces;
          // Beyond the last are zeros: their weights are zero too, and zero times what memory held need not be.
          const int position = range * kRange + first + row;
          const int64_t from_block = __shfl_sync(kFullWarp, block, row / 16);
          const __half* const from =
              storage + view.layout.slot(from_block, tile.kv_head, position & (view.layout.block_size - 1)) + piece * 8;
          Copy16(to + piece / kAtomPieces * Shape::kAtomBytes + row * Shape::kRowBytes + piece % kAtomPieces * 16, from,
                 position <= last_position);
        }
        CommitCopies();
        if (++num_asked > kAhead) {
          WaitCopies<kAhead>();
          announce();
        }
        if (++stage == kNumStages) {
          stage = 0;
          parity ^= 1;
        }
      }
    }
    WaitCopies<0>();
    for (int i = max(0, num_asked - kAhead); i < num_asked; ++i) announce();
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  WaitForEarlierKernels();
  const int thread = threadIdx.x % 128, lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
  const int first_pair = warpgroup * kGroupPairs;
  const uint32_t q_at = SharedAddress(q_rows) + warpgroup * Shape::kQBytes;
  {
    constexpr int kPieces = kHeadDim / 8, kAtomPieces = Shape::kAtom / 8;
    for (int i = thread; i < kGroupPairs * kPieces; i += 128) {
      const int pair = i / kPieces, piece = i % kPieces;
      uint4 v = make_uint4(0, 0, 0, 0);
      if (first_pair + pair < tile.tile.num_pairs) {
        v = *reinterpret_cast<const uint4*>(tile.q_of(first_pair + pair, kHeadDim) + piece * 8);
      }
      *reinterpret_cast<uint4*>(q_rows + warpgroup * Shape::kQBytes +
                                piece / kAtomPieces * (kGroupPairs * Shape::kRowBytes) +
                                PieceOffset<Shape::kAtom>(pair, piece % kAtomPieces)) = v;
    }
    FenceSharedForCopies();
    SyncNamed(1 + warpgroup, 128);
  }

  int position[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) position[half] = tile.position_of(first_pair + warp * 16 + g + 8 * half);
  const int first_of_group = tile.position_of(first_pair);
  int stage = 0;
  uint32_t parity = 0;
  // The next stage's address, once it is full.
  const auto wait = [&] {
    WaitBarrier(full + stage * 8, parity);
    return SharedAddress(shared) + stage * Shape::kStageBytes;
  };
  const auto advance = [&] {
    if (++stage == kNumStages) {
      stage = 0;
      parity ^= 1;
    }
  };
  const auto release = [&](int of) {
    if (lane == 0) Arrive(empty + of * 8);
  };
  // Of the two warpgroups' turns at scores.
  constexpr int kTurn = 1 + kGroups;
  const bool in_turns = num_groups == 2;
  if (in_turns && warpgroup == 1) ArriveNamed(kTurn, 256);

  Running running[2];
  float out[kColumns][4] = {};
  for (int range = first_range; range < end_range && warpgroup < num_groups; ++range) {
    const int num_positions = positions_of(range);
    // scores = q k^T
    float scores[32][4] = {};
    if (in_turns) SyncNamed(kTurn + warpgroup, 256);
    const auto multiply_keys = [&]<int kPart>() {
      const uint32_t rows = wait();
#pragma unroll
      for (int n = 0; n < 16; ++n) PinAccumulators(scores[16 * kPart + n]);
      FenceMultiply();
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        constexpr int kAtomSteps = Shape::kAtom / 16;
        const int atom = step / kAtomSteps, within = step % kAtomSteps * 32;
        MultiplyKeys<kPart>(scores,
                            F16Descriptor<Shape::kAtom>(q_at + atom * (kGroupPairs * Shape::kRowBytes) + within, 16),
                            F16Descriptor<Shape::kAtom>(rows + atom * Shape::kAtomBytes + within, 16));
      }
      CommitMultiply();
      const bool is_last = kPart == 1 || num_positions <= kPartRows;
      if (in_turns && is_last && (warpgroup == 0 || range + 1 < end_range)) ArriveNamed(kTurn + (1 - warpgroup), 256);
      WaitMultiply<0>();
#pragma unroll
      for (int n = 0; n < 16; ++n) PinAccumulators(scores[16 * kPart + n]);
      release(stage);
      advance();
    };
    multiply_keys.template operator()<0>();
    if (num_positions > kPartRows) multiply_keys.template operator()<1>();

    float max[2], sum[2];
    {
      int first_visible[2], num_visible[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        first_visible[half] = tile.oldest_of(position[half]) - range * kRange;
        num_visible[half] = position[half] + 1 - range * kRange;
      }
      const bool all_visible =
          first_of_group >= (range + 1) * kRange - 1 && tile.oldest_of(last_position) <= range * kRange;
      SoftmaxOfRange<2>(scores, view.scale, first_visible, num_visible, all_visible, max, sum);
    }
    uint32_t weights[kRange / 16][4];
#pragma unroll
    for (int j = 0; j < kRange / 16; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        weights[j][e] = PackF16(scores[2 * j + e / 2][e % 2 * 2], scores[2 * j + e / 2][e % 2 * 2 + 1]);
      }
    }

    // values weighted: 16 positions a step
    float next[kColumns][4] = {};
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (part * kPartRows >= num_positions) continue;
      const uint32_t rows = wait();
#pragma unroll
      for (int n = 0; n < kColumns; ++n) PinAccumulators(next[n]);
      FenceMultiply();
#pragma unroll
      for (int step = 0; step < kPartRows / 16; ++step) {
        MultiplyValues(next, weights[part * (kPartRows / 16) + step],
                       F16Descriptor<Shape::kAtom>(rows + step * 16 * Shape::kRowBytes, Shape::kAtomBytes));
      }
      CommitMultiply();
      WaitMultiply<0>();
#pragma unroll
      for (int n = 0; n < kColumns; ++n) PinAccumulators(next[n]);
      release(stage);
      advance();
    }
    if (split) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int pair = first_pair + warp * 16 + g + 8 * half;
        if (pair >= tile.tile.num_pairs) continue;
        const int64_t partial = tile.partial(range, pair);
        float* const to = view.partial_values + partial * kHeadDim + t * 2;
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
          *reinterpret_cast<float2*>(to + column * 8) = make_float2(next[column][2 * half], next[column][2 * half + 1]);
        }
        if (t == 0) view.partial_sums[partial] = make_float2(max[half], sum[half]);
      }
      continue;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
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

  if (split) {
    MergePartials<kHeadDim>(tile, oldest_range, num_ranges, kTurn + kGroups, kGroups * 128);
    return;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int pair = first_pair + warp * 16 + g + 8 * half;
    if (pair >= tile.tile.num_pairs) continue;
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
  const unsigned num_tiles = static_cast<unsigned>(args.plan->tiles().size()) - args.plan->num_narrow();
  return Launch(AttentionPrompt<kHeadDim>,
                {.grid = dim3(static_cast<unsigned>(args.layout.num_kv_heads), num_tiles,
                              static_cast<unsigned>(args.plan->num_wide_splits())),
                 .block = kThreads,
                 .shared_bytes = PromptShape<kHeadDim>::kBytes},
                stream, view);
}

}  // namespace

KernelError LaunchAttentionPrompts(const DeviceAttentionArgs& args, const AttentionView& view, Stream stream) {
  return ForHeadDim(args.layout.head_dim, [&]<int kHeadDim>() { return LaunchHeadDim<kHeadDim>(args, view, stream); });
}

}  // namespace outrider::kernels::device
