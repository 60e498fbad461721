// A task is a tile: some rows of a span (all query heads of one KV head), against all ranges of 256 positions or, when
// there are few tiles, against one of them; then the ranges are merged afterwards. Either way a range's partial result
// is computed by PartialOfRange and merged by MergePartial, ascending, so the bits are the same.
//
// Inside a range both products are register-blocked (queries x positions, queries x head_dim) but every element adds in
// its own fixed order: scores over head_dim, values over positions.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <vector>

#include "kernels/attention/paged_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/paged_attention_cpu.cc"
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#endif
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/math/fast_math-inl.h"

#ifndef OUTRIDER_KERNELS_ATTENTION_TILE_
#define OUTRIDER_KERNELS_ATTENTION_TILE_
namespace outrider::kernels {

// Rows [first_row, first_row + num_rows) of a span with the query heads of one KV head. Query index within a tile:
// row * group + head of the group.
struct AttentionTile {
  const AttentionSpan* span;
  int first_row;
  int num_rows;
  int kv_head;
};

// A tile's partial result over a range, or over the ranges merged so far.
struct AttentionPartial {
  float* max;     // [queries]
  float* sum;     // [queries] of exp(score - max)
  float* values;  // [queries, v_row_size], weighted by exp(score - max)
};

}  // namespace outrider::kernels
#endif  // OUTRIDER_KERNELS_ATTENTION_TILE_

HWY_BEFORE_NAMESPACE();
namespace outrider::kernels {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kSumLanes = 16;
using D = hn::CappedTag<float, kSumLanes>;
constexpr size_t kLanes = hn::MaxLanes(D());
using D1 = hn::CappedTag<float, 1>;

// Queries a register block holds, and vectors on its other side: fewer with many queries where there are 16 registers,
// not 32.
constexpr int kFewQueries = 3;
constexpr int kManyQueries = 6;
constexpr int kWide = 4;
constexpr int kNarrow = kLanes == kSumLanes ? kWide : 2;

template <class DF>
HWY_INLINE hn::Vec<DF> LoadKv(DF d, const float* p) {
  return hn::LoadU(d, p);
}

template <class DF>
HWY_INLINE hn::Vec<DF> LoadKv(DF d, const uint16_t* p) {
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  HWY_ALIGN float values[hn::MaxLanes(d)];
  for (size_t i = 0; i < hn::Lanes(d); ++i) values[i] = F16ToF32(p[i]);
  return hn::Load(d, values);
#else
  const hn::Rebind<hwy::float16_t, DF> dh;
  const hn::RebindToUnsigned<decltype(dh)> du;
  return hn::PromoteTo(d, hn::BitCast(dh, hn::LoadU(du, p)));
#endif
}

HWY_INLINE float ExpOf(float x) {
  const D1 d;
  return hn::GetLane(Exp(d, hn::Set(d, x)));
}

// How far ahead keys and values are asked for: a head's tile of a block is 2 to 4 KB and the next lies elsewhere, so
// hardware does not see it coming.
constexpr size_t kBlocksAhead = 3;

// ---- scores

// scores[q][v * lanes ...] = sum over i of queries[q][i] * keys[v][i * stride ...], i ascending. kPrefetch: the first
// to read these keys asks for the next ones; a head's part of a block is 2 to 4 KB, so hardware does not see the next.
template <int kQueries, int kVectors, bool kPrefetch, class DF, typename T>
HWY_INLINE void ScoreBlock(DF d, const float* const* HWY_RESTRICT queries, const T* const* HWY_RESTRICT keys,
                           const T* const* HWY_RESTRICT next_keys, size_t stride, size_t head_dim,
                           float* const* HWY_RESTRICT scores) {
  hn::Vec<DF> sums[kQueries][kVectors];
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[q][v] = hn::Zero(d);
  }
  for (size_t i = 0; i < head_dim; ++i) {
    hn::Vec<DF> key[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      key[v] = LoadKv(d, keys[v] + i * stride);
      if constexpr (kPrefetch) hwy::Prefetch(next_keys[v] + i * stride);
    }
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      const auto query = hn::Set(d, queries[q][i]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[q][v] = hn::MulAdd(query, key[v], sums[q][v]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[q][v], d, scores[q] + v * hn::Lanes(d));
  }
}

template <bool kPrefetch, class DF, typename T>
HWY_INLINE void ScoreBlockOf(DF d, int num_queries, const float* const* queries, const T* const* keys,
                             const T* const* next_keys, size_t stride, size_t head_dim, float* const* scores) {
  switch (num_queries) {
    case 1:
      return ScoreBlock<1, kWide, kPrefetch>(d, queries, keys, next_keys, stride, head_dim, scores);
    case 2:
      return ScoreBlock<2, kWide, kPrefetch>(d, queries, keys, next_keys, stride, head_dim, scores);
    case 3:
      return ScoreBlock<3, kWide, kPrefetch>(d, queries, keys, next_keys, stride, head_dim, scores);
    default:
      break;
  }
  for (int half = 0; half < kWide; half += kNarrow) {
    float* rows[kManyQueries];
    for (int q = 0; q < num_queries; ++q) rows[q] = scores[q] + static_cast<size_t>(half) * hn::Lanes(d);
    switch (num_queries) {
      case 4:
        ScoreBlock<4, kNarrow, kPrefetch>(d, queries, keys + half, next_keys + half, stride, head_dim, rows);
        break;
      case 5:
        ScoreBlock<5, kNarrow, kPrefetch>(d, queries, keys + half, next_keys + half, stride, head_dim, rows);
        break;
      default:
        ScoreBlock<6, kNarrow, kPrefetch>(d, queries, keys + half, next_keys + half, stride, head_dim, rows);
        break;
    }
  }
}

const float* QueryOf(const PagedAttentionArgs& args, const AttentionTile& tile, int query) {
  const int group = args.num_q_heads / args.layout.num_kv_heads;
  const int64_t row = tile.span->first_row + tile.first_row + query / group;
  const int64_t head = int64_t{tile.kv_head} * group + query % group;
  return args.q + row * args.q_stride + head * args.layout.head_dim;
}

// The same scores position by position: for blocks shorter than a vector, and where vectors have one lane.
template <typename T>
void PlainScoresOfRange(const PagedAttentionArgs& args, const AttentionTile& tile, int range_first_position, int first,
                        int end, int num_queries, float* scores, size_t scores_stride) {
  const D1 d;
  const KvLayout& layout = args.layout;
  const T* const k_storage = static_cast<const T*>(args.k_storage);
  for (int p = first; p < end; ++p) {
    const int absolute = range_first_position + p;
    const int64_t block = tile.span->block_table[absolute / layout.block_size];
    const T* const key = k_storage + layout.k_tile(block, tile.kv_head) + absolute % layout.block_size;
    for (int q = 0; q < num_queries; ++q) {
      const float* const query = QueryOf(args, tile, q);
      auto sum = hn::Zero(d);
      for (int i = 0; i < layout.head_dim; ++i) {
        sum = hn::MulAdd(hn::Set(d, query[i]), LoadKv(d, key + int64_t{i} * layout.block_size), sum);
      }
      scores[static_cast<size_t>(q) * scores_stride + static_cast<size_t>(p)] = hn::GetLane(sum);
    }
  }
}

// Raw dot products of every query with positions [first, end) of the range (relative to its start), and with those that
// share a vector with them: what lies outside a row's own positions is never used. Rows of scores hold room for that.
// REQUIRES: block_size is a multiple of the lanes.
template <typename T>
void ScoresOfRange(const PagedAttentionArgs& args, const AttentionTile& tile, int range_first_position, int first,
                   int end, int num_queries, float* scores, size_t scores_stride) {
  const D d;
  const KvLayout& layout = args.layout;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const size_t head_dim = static_cast<size_t>(layout.head_dim);
  const T* const k_storage = static_cast<const T*>(args.k_storage);
  const auto keys_at = [&](int position) {  // of the vector that starts there
    const int absolute = range_first_position + position;
    const int64_t block = tile.span->block_table[absolute / layout.block_size];
    return k_storage + layout.k_tile(block, tile.kv_head) + absolute % layout.block_size;
  };
  // After the last keys come the first values, whose tiles have as many elements or more.
  const T* const v_storage = static_cast<const T*>(args.v_storage);
  const int first_vector = first / lanes * lanes;
  const int last_vector = (end - 1) / lanes * lanes;
  const auto next_at = [&](int position) {
    if (position <= last_vector) return keys_at(position);
    const int absolute = range_first_position + std::min(first_vector + position - last_vector - lanes, last_vector);
    const int64_t block = tile.span->block_table[absolute / layout.block_size];
    return v_storage + layout.v_tile(block, tile.kv_head) + absolute % layout.block_size;
  };
  for (int p = first_vector; p < end; p += kWide * lanes) {
    const T* keys[kWide];
    const T* next_keys[kWide];
    for (int v = 0; v < kWide; ++v) {
      keys[v] = keys_at(std::min(p + v * lanes, last_vector));
      next_keys[v] = next_at(p + (kWide + v) * lanes);
    }
    for (int q = 0; q < num_queries; q += kManyQueries) {
      const int block_queries = std::min(kManyQueries, num_queries - q);
      const float* queries[kManyQueries];
      float* rows[kManyQueries];
      for (int i = 0; i < block_queries; ++i) {
        queries[i] = QueryOf(args, tile, q + i);
        rows[i] = scores + static_cast<size_t>(q + i) * scores_stride + p;
      }
      const size_t stride = static_cast<size_t>(layout.block_size);
      if (q == 0) {
        ScoreBlockOf<true>(d, block_queries, queries, keys, next_keys, stride, head_dim, rows);
      } else {
        ScoreBlockOf<false>(d, block_queries, queries, keys, next_keys, stride, head_dim, rows);
      }
    }
  }
}

// ---- softmax

// scores[first..end) become exp(score - max), 0 in the rest of their groups of 16; *max and *sum are the range's.
void SoftmaxOfRange(const PagedAttentionArgs& args, int first, int end, float* HWY_RESTRICT scores, float* max,
                    float* sum) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const size_t group_first = static_cast<size_t>(first) / kSumLanes * kSumLanes;
  const size_t group_end = (static_cast<size_t>(end) + kSumLanes - 1) / kSumLanes * kSumLanes;
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  std::fill(scores + group_first, scores + first, kNone);
  std::fill(scores + end, scores + group_end, kNone);

  const auto scale = hn::Set(d, args.scale);
  auto largest = hn::Set(d, kNone);
  if (args.logit_softcap > 0) {
    // cap * tanh(s / cap) with tanh(y) = 1 - 2 / (exp(2 y) + 1); -infinity (no score) stays.
    const auto cap = hn::Set(d, args.logit_softcap);
    const auto double_inverse = hn::Set(d, 2.0f / args.logit_softcap);
    const auto one = hn::Set(d, 1.0f), two = hn::Set(d, 2.0f), none = hn::Set(d, kNone);
    for (size_t i = group_first; i < group_end; i += lanes) {
      const auto score = hn::Mul(hn::LoadU(d, scores + i), scale);
      const auto power = Exp(d, hn::Mul(score, double_inverse));
      const auto capped = hn::Mul(cap, hn::Sub(one, hn::Div(two, hn::Add(power, one))));
      hn::StoreU(hn::IfThenElse(hn::Eq(score, none), none, capped), d, scores + i);
    }
    // A NaN must survive the maximum, whose result with one is unspecified: see below.
    for (size_t i = group_first; i < group_end; i += lanes) largest = hn::Max(largest, hn::LoadU(d, scores + i));
  } else {
    for (size_t i = group_first; i < group_end; i += lanes) {
      const auto score = hn::Mul(hn::LoadU(d, scores + i), scale);
      largest = hn::Max(largest, score);
      hn::StoreU(score, d, scores + i);
    }
  }
  *max = hn::GetLane(hn::MaxOfLanes(d, largest));

  // Whatever the maximum made of a NaN score, its exponential is NaN, and so are the sum and the row.
  const auto row_max = hn::Set(d, *max);
  HWY_ALIGN float sums[kSumLanes] = {};
  const auto weigh = [&](size_t i) HWY_ATTR {
    const auto weight = Exp(d, hn::Sub(hn::LoadU(d, scores + i), row_max));
    hn::StoreU(weight, d, scores + i);
    return weight;
  };
  if constexpr (kLanes == kSumLanes) {
    auto sum0 = hn::Zero(d);
    for (size_t i = group_first; i < group_end; i += kSumLanes) sum0 = hn::Add(sum0, weigh(i));
    hn::Store(sum0, d, sums);
  } else if constexpr (2 * kLanes == kSumLanes) {
    auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
    for (size_t i = group_first; i < group_end; i += kSumLanes) {
      sum0 = hn::Add(sum0, weigh(i));
      sum1 = hn::Add(sum1, weigh(i + kLanes));
    }
    hn::Store(sum0, d, sums);
    hn::Store(sum1, d, sums + kLanes);
  } else {
    for (size_t i = group_first; i < group_end; i += kLanes) {
      hn::Store(hn::Add(hn::Load(d, sums + i % kSumLanes), weigh(i)), d, sums + i % kSumLanes);
    }
  }
  for (size_t half = kSumLanes / 2; half > 0; half /= 2) {
    for (size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  *sum = sums[0];
}

// ---- values

// values[q][0 .. kVectors * lanes) += sum over positions [first, end) of weights[q][p] * v[p][...], ascending.
template <int kQueries, int kVectors, typename T>
HWY_INLINE void ValueBlock(const T* const* HWY_RESTRICT v_tiles, size_t block_size, size_t v_row_size, int first,
                           int end, const float* const* HWY_RESTRICT weights, float* const* HWY_RESTRICT values) {
  const D d;
  hn::Vec<D> sums[kQueries][kVectors];
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[q][v] = hn::LoadU(d, values[q] + v * hn::Lanes(d));
  }
  size_t p = static_cast<size_t>(first);
  while (p < static_cast<size_t>(end)) {
    const size_t block = p / block_size;
    const size_t block_end = std::min(static_cast<size_t>(end), (block + 1) * block_size);
    const T* HWY_RESTRICT row = v_tiles[block] + p % block_size * v_row_size;
    const T* HWY_RESTRICT next_row = v_tiles[block + kBlocksAhead] + p % block_size * v_row_size;
    for (; p < block_end; ++p, row += v_row_size, next_row += v_row_size) {
      hn::Vec<D> value[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        value[v] = LoadKv(d, row + v * hn::Lanes(d));
        if constexpr (kQueries <= kFewQueries) hwy::Prefetch(next_row + v * hn::Lanes(d));
      }
#pragma GCC unroll 8
      for (int q = 0; q < kQueries; ++q) {
        const auto weight = hn::Set(d, weights[q][p]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[q][v] = hn::MulAdd(weight, value[v], sums[q][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[q][v], d, values[q] + v * hn::Lanes(d));
  }
}

template <int kVectors, typename T>
HWY_INLINE void ValueBlockOf(int num_queries, const T* const* v_tiles, size_t block_size, size_t v_row_size, int first,
                             int end, const float* const* weights, float* const* values) {
  switch (num_queries) {
    case 1:
      return ValueBlock<1, kVectors>(v_tiles, block_size, v_row_size, first, end, weights, values);
    case 2:
      return ValueBlock<2, kVectors>(v_tiles, block_size, v_row_size, first, end, weights, values);
    case 3:
      return ValueBlock<3, kVectors>(v_tiles, block_size, v_row_size, first, end, weights, values);
    default:
      break;
  }
  if constexpr (kVectors <= kNarrow) {
    switch (num_queries) {
      case 4:
        return ValueBlock<4, kVectors>(v_tiles, block_size, v_row_size, first, end, weights, values);
      case 5:
        return ValueBlock<5, kVectors>(v_tiles, block_size, v_row_size, first, end, weights, values);
      default:
        return ValueBlock<6, kVectors>(v_tiles, block_size, v_row_size, first, end, weights, values);
    }
  }
}

// Adds positions [first, end) of the range to queries [first_query, end_query).
template <typename T>
void AddValues(const T* const* v_tiles, const KvLayout& layout, int first_query, int end_query, int first, int end,
               const float* scores, size_t scores_stride, float* values) {
  if (first >= end) return;
  const size_t lanes = hn::Lanes(D());
  const size_t v_row_size = static_cast<size_t>(layout.v_row_size());
  const size_t block_size = static_cast<size_t>(layout.block_size);
  const T* tiles[kAttentionRangeSize + kBlocksAhead];
  const size_t num_blocks = (static_cast<size_t>(end) + block_size - 1) / block_size + kBlocksAhead;
  for (size_t offset = 0; offset < v_row_size;) {
    const size_t vectors_left = (v_row_size - offset) / lanes;
    for (size_t b = 0; b < num_blocks; ++b) tiles[b] = v_tiles[b] + offset;
    const size_t widest = end_query - first_query <= kFewQueries ? kWide : kNarrow;
    const size_t vectors = vectors_left >= widest ? widest : vectors_left >= 2 ? 2 : 1;
    for (int q = first_query; q < end_query; q += kManyQueries) {
      const int block_queries = std::min(kManyQueries, end_query - q);
      const float* weights[kManyQueries];
      float* sums[kManyQueries];
      for (int i = 0; i < block_queries; ++i) {
        weights[i] = scores + static_cast<size_t>(q + i) * scores_stride;
        sums[i] = values + static_cast<size_t>(q + i) * v_row_size + offset;
      }
      if (vectors == kWide) {
        ValueBlockOf<kWide>(block_queries, tiles, block_size, v_row_size, first, end, weights, sums);
      } else if (vectors == 2) {
        ValueBlockOf<2>(block_queries, tiles, block_size, v_row_size, first, end, weights, sums);
      } else {
        ValueBlockOf<1>(block_queries, tiles, block_size, v_row_size, first, end, weights, sums);
      }
    }
    offset += vectors * lanes;
  }
}

// Positions of a range, relative to its start, that a row sees: [first, end), empty if first >= end.
struct Visible {
  int first, end;
};

Visible VisibleIn(const PagedAttentionArgs& args, int position, int range_first_position) {
  const int oldest = args.sliding_window > 0 ? std::max(0, position - args.sliding_window + 1) : 0;
  return {std::max(0, oldest - range_first_position),
          std::min(kAttentionRangeSize, position + 1 - range_first_position)};
}

template <typename T>
void PartialOfRangeT(const PagedAttentionArgs& args, const AttentionTile& tile, int range, float* scores,
                     size_t scores_stride, const AttentionPartial& out) {
  const KvLayout& layout = args.layout;
  const int group = args.num_q_heads / layout.num_kv_heads;
  const int num_queries = tile.num_rows * group;
  const int range_first_position = range * kAttentionRangeSize;
  const size_t v_row_size = static_cast<size_t>(layout.v_row_size());
  const int tile_position = tile.span->first_position + tile.first_row;

  // Rows see more as they go: the first row ends first, the last row starts last.
  const Visible of_first = VisibleIn(args, tile_position, range_first_position);
  const Visible of_last = VisibleIn(args, tile_position + tile.num_rows - 1, range_first_position);
  std::fill_n(out.values, static_cast<size_t>(num_queries) * v_row_size, 0.0f);

  const auto scores_of_range =
      kLanes > 1 && layout.block_size % static_cast<int>(kLanes) == 0 ? ScoresOfRange<T> : PlainScoresOfRange<T>;
  scores_of_range(args, tile, range_first_position, of_first.first, of_last.end, num_queries, scores, scores_stride);

  const T* v_tiles[kAttentionRangeSize + kBlocksAhead];
  const T* const v_storage = static_cast<const T*>(args.v_storage);
  const int first_block = of_first.first / layout.block_size;
  const int end_block = (of_last.end + layout.block_size - 1) / layout.block_size;
  for (int b = 0; b < end_block; ++b) {
    // Blocks before the window may have been given back.
    const int entry = range_first_position / layout.block_size + std::max(b, first_block);
    v_tiles[b] = v_storage + layout.v_tile(tile.span->block_table[entry], tile.kv_head);
  }
  // Only asked for, not read: the first keys of the next range, if there is one.
  const T* const k_storage = static_cast<const T*>(args.k_storage);
  const int last_entry = (tile_position + tile.num_rows - 1) / layout.block_size;
  for (int b = end_block; b < end_block + static_cast<int>(kBlocksAhead); ++b) {
    const int entry = std::min(range_first_position / layout.block_size + b, last_entry);
    v_tiles[b] = k_storage + layout.k_tile(tile.span->block_table[entry], tile.kv_head);
  }

  // Each row's positions before and after those that all rows see are added by themselves: a weight of 0 would not do,
  // since what a row must not see may be infinite or not be there.
  const int common_first = of_last.first;
  const int common_end = std::max(common_first, of_first.end);
  for (int r = 0; r < tile.num_rows; ++r) {
    const Visible row = VisibleIn(args, tile_position + r, range_first_position);
    for (int g = 0; g < group; ++g) {
      const size_t q = static_cast<size_t>(r * group + g);
      if (row.first >= row.end) {
        out.sum[q] = 0.0f;
        out.max[q] = -std::numeric_limits<float>::infinity();
        continue;
      }
      SoftmaxOfRange(args, row.first, row.end, scores + q * scores_stride, out.max + q, out.sum + q);
    }
    AddValues<T>(v_tiles, layout, r * group, (r + 1) * group, row.first, std::min(row.end, common_first), scores,
                 scores_stride, out.values);
  }
  AddValues<T>(v_tiles, layout, 0, num_queries, common_first, std::min(common_end, of_first.end), scores, scores_stride,
               out.values);
  for (int r = 0; r < tile.num_rows; ++r) {
    const Visible row = VisibleIn(args, tile_position + r, range_first_position);
    AddValues<T>(v_tiles, layout, r * group, (r + 1) * group, common_end, row.end, scores, scores_stride, out.values);
  }
}

}  // namespace

void PartialOfRange(const PagedAttentionArgs& args, const AttentionTile& tile, int range, float* scores,
                    size_t scores_stride, const AttentionPartial& out) {
  if (args.layout.dtype == DType::kF32) {
    PartialOfRangeT<float>(args, tile, range, scores, scores_stride, out);
  } else {
    PartialOfRangeT<uint16_t>(args, tile, range, scores, scores_stride, out);
  }
}

// Merges a later range into what came before. A query that sees nothing of the range keeps its bits.
void MergePartial(const AttentionPartial& range, int num_queries, size_t v_row_size, const AttentionPartial& merged) {
  const D d;
  for (int q = 0; q < num_queries; ++q) {
    if (range.sum[q] == 0.0f && range.max[q] == -std::numeric_limits<float>::infinity()) continue;
    float* HWY_RESTRICT to = merged.values + static_cast<size_t>(q) * v_row_size;
    const float* HWY_RESTRICT from = range.values + static_cast<size_t>(q) * v_row_size;
    const bool is_first = merged.sum[q] == 0.0f && merged.max[q] == -std::numeric_limits<float>::infinity();
    if (is_first) {
      merged.max[q] = range.max[q];
      merged.sum[q] = range.sum[q];
      std::copy_n(from, v_row_size, to);
      continue;
    }
    const float max = std::max(merged.max[q], range.max[q]);
    const float merged_factor = ExpOf(merged.max[q] - max);
    const float range_factor = ExpOf(range.max[q] - max);
    merged.max[q] = max;
    merged.sum[q] = merged.sum[q] * merged_factor + range.sum[q] * range_factor;
    const auto a = hn::Set(d, merged_factor), b = hn::Set(d, range_factor);
    for (size_t i = 0; i < v_row_size; i += hn::Lanes(d)) {
      hn::StoreU(hn::MulAdd(hn::LoadU(d, from + i), b, hn::Mul(hn::LoadU(d, to + i), a)), d, to + i);
    }
  }
}

// The last division: out = values / sum.
void WriteOut(const PagedAttentionArgs& args, const AttentionTile& tile, const AttentionPartial& merged) {
  const int group = args.num_q_heads / args.layout.num_kv_heads;
  const size_t head_dim = static_cast<size_t>(args.layout.head_dim);
  const size_t v_row_size = static_cast<size_t>(args.layout.v_row_size());
  for (int q = 0; q < tile.num_rows * group; ++q) {
    const int64_t row = tile.span->first_row + tile.first_row + q / group;
    const int64_t head = int64_t{tile.kv_head} * group + q % group;
    float sum = merged.sum[q];
    float factor = 1.0f;
    if (args.sinks != nullptr) {
      const float max = std::max(merged.max[q], args.sinks[head]);
      factor = ExpOf(merged.max[q] - max);
      sum = sum * factor + ExpOf(args.sinks[head] - max);
    }
    factor = factor / sum;
    const float* values = merged.values + static_cast<size_t>(q) * v_row_size;
    float* out = args.out + row * args.out_stride + head * args.layout.head_dim;
    const D d;
    size_t i = 0;
    for (; i + kLanes <= head_dim; i += kLanes) {
      hn::StoreU(hn::Mul(hn::LoadU(d, values + i), hn::Set(d, factor)), d, out + i);
    }
    for (; i < head_dim; ++i) out[i] = values[i] * factor;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace outrider::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace outrider::kernels {

HWY_EXPORT(PartialOfRange);
HWY_EXPORT(MergePartial);
HWY_EXPORT(WriteOut);

void AttentionWorkspace::Free::operator()(std::byte* p) const { std::free(p); }

struct AttentionWorkspaceAccess {
  // 64-byte aligned room, or null.
  static std::byte* Reserve(AttentionWorkspace& workspace, int64_t bytes) {
    if (bytes > workspace.capacity_bytes_) {
      const size_t rounded = (static_cast<size_t>(bytes) + 4095) / 4096 * 4096;
      workspace.capacity_bytes_ = 0;
      workspace.data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, rounded)));
      if (workspace.data_ == nullptr) return nullptr;
      workspace.capacity_bytes_ = static_cast<int64_t>(rounded);
    }
    return workspace.data_.get();
  }
};

namespace {

// Queries of a tile: enough to reuse K and V from L1, few enough that scores (24 KB) stay there too.
constexpr int kTileQueries = 24;
// Below this many tiles a thread, ranges become tasks of their own.
constexpr int kTilesPerThreadMin = 4;
// Vectors may be computed past a range's last position, up to the width of a register block.
constexpr int64_t kScoresStride = kAttentionRangeSize + 64;

struct RangeTask {
  int tile;
  int range;
};

int LastRange(const AttentionTile& tile) {
  return (tile.span->first_position + tile.first_row + tile.num_rows - 1) / kAttentionRangeSize;
}

int FirstRange(const PagedAttentionArgs& args, const AttentionTile& tile) {
  if (args.sliding_window <= 0) return 0;
  return std::max(0, tile.span->first_position + tile.first_row - args.sliding_window + 1) / kAttentionRangeSize;
}

KernelError Check(const PagedAttentionArgs& args) {
  const KvLayout& layout = args.layout;
  const KernelError layout_error = layout.Check();
  if (layout_error != KernelError::kOk) return layout_error;
  if (args.num_q_heads < 1 || args.num_q_heads % layout.num_kv_heads != 0) return KernelError::kInvalidShape;
  if (args.sliding_window < 0) return KernelError::kInvalidShape;
  int64_t num_rows = 0;
  for (const AttentionSpan& span : args.spans) {
    if (span.num_rows < 0 || span.first_row < 0 || span.first_position < 0) return KernelError::kInvalidShape;
    if (span.num_rows == 0) continue;
    if (span.block_table == nullptr) return KernelError::kNullPointer;
    const int first =
        args.sliding_window > 0 ? std::max(0, span.first_position - args.sliding_window + 1) / layout.block_size : 0;
    for (int b = first; b <= (span.first_position + span.num_rows - 1) / layout.block_size; ++b) {
      if (span.block_table[b] < 0 || span.block_table[b] >= layout.num_blocks) return KernelError::kInvalidShape;
    }
    num_rows += span.num_rows;
  }
  if (num_rows == 0) return KernelError::kOk;
  if (num_rows > 1 && std::min(args.q_stride, args.out_stride) < int64_t{args.num_q_heads} * layout.head_dim) {
    return KernelError::kInvalidShape;
  }
  if (args.q == nullptr || args.out == nullptr || args.k_storage == nullptr || args.v_storage == nullptr) {
    return KernelError::kNullPointer;
  }
  return KernelError::kOk;
}

// Hands out a partial's arrays from raw memory; each is a multiple of 64 bytes.
struct PartialShape {
  int64_t num_queries;  // rounded up to 16
  int64_t v_row_size;

  int64_t num_floats() const { return num_queries * (v_row_size + 2); }
  AttentionPartial At(float* floats) const {
    return {.max = floats, .sum = floats + num_queries, .values = floats + 2 * num_queries};
  }
};

}  // namespace

KernelError PagedAttention(const PagedAttentionArgs& args, ThreadPool& pool, AttentionWorkspace& workspace) {
  const KernelError error = Check(args);
  if (error != KernelError::kOk) return error;
  const int group = args.num_q_heads / args.layout.num_kv_heads;
  const int rows_per_tile = std::max(1, kTileQueries / group);
  const size_t v_row_size = static_cast<size_t>(args.layout.v_row_size());

  std::vector<AttentionTile> tiles;
  int num_rows_max = 0;
  for (const AttentionSpan& span : args.spans) {
    // Longest first, so that the last tasks are short.
    const int num_tiles = (span.num_rows + rows_per_tile - 1) / rows_per_tile;
    for (int t = num_tiles - 1; t >= 0; --t) {
      const int first_row = t * rows_per_tile;
      const int num_rows = std::min(rows_per_tile, span.num_rows - first_row);
      num_rows_max = std::max(num_rows_max, num_rows);
      for (int h = 0; h < args.layout.num_kv_heads; ++h) tiles.push_back({&span, first_row, num_rows, h});
    }
  }
  if (tiles.empty()) return KernelError::kOk;

  const PartialShape shape{(int64_t{num_rows_max} * group + 15) / 16 * 16, args.layout.v_row_size()};
  const int num_threads = pool.num_threads();
  std::vector<RangeTask> range_tasks;
  if (num_threads > 1 && static_cast<int>(tiles.size()) < kTilesPerThreadMin * num_threads) {
    for (size_t t = 0; t < tiles.size(); ++t) {
      for (int range = FirstRange(args, tiles[t]); range <= LastRange(tiles[t]); ++range) {
        range_tasks.push_back({static_cast<int>(t), range});
      }
    }
    if (range_tasks.size() == tiles.size()) range_tasks.clear();  // nothing to split
  }

  // Of a thread: scores, a range's partial and the merged one. Then every range task's partial.
  const int64_t thread_floats = shape.num_queries * kScoresStride + 2 * shape.num_floats();
  const int64_t total_floats =
      num_threads * thread_floats + static_cast<int64_t>(range_tasks.size()) * shape.num_floats();
  std::byte* const memory = AttentionWorkspaceAccess::Reserve(workspace, total_floats * int64_t{sizeof(float)});
  if (memory == nullptr) return KernelError::kOutOfMemory;
  float* const thread_memory = reinterpret_cast<float*>(memory);
  float* const task_memory = thread_memory + num_threads * thread_floats;

  const auto partial_of_range = HWY_DYNAMIC_DISPATCH(PartialOfRange);
  const auto merge_partial = HWY_DYNAMIC_DISPATCH(MergePartial);
  const auto write_out = HWY_DYNAMIC_DISPATCH(WriteOut);
  const auto clear = [&](const AttentionPartial& merged) {
    std::fill_n(merged.max, shape.num_queries, -std::numeric_limits<float>::infinity());
    std::fill_n(merged.sum, shape.num_queries, 0.0f);
  };

  if (range_tasks.empty()) {
    pool.ParallelFor(static_cast<int64_t>(tiles.size()), [&](int64_t task, int thread_index) {
      const AttentionTile& tile = tiles[static_cast<size_t>(task)];
      float* const scores = thread_memory + thread_index * thread_floats;
      const AttentionPartial partial = shape.At(scores + shape.num_queries * kScoresStride);
      const AttentionPartial merged = shape.At(scores + shape.num_queries * kScoresStride + shape.num_floats());
      clear(merged);
      for (int range = FirstRange(args, tile); range <= LastRange(tile); ++range) {
        partial_of_range(args, tile, range, scores, kScoresStride, partial);
        merge_partial(partial, tile.num_rows * group, v_row_size, merged);
      }
      write_out(args, tile, merged);
    });
    return KernelError::kOk;
  }

  pool.ParallelFor(static_cast<int64_t>(range_tasks.size()), [&](int64_t task, int thread_index) {
    const RangeTask& range_task = range_tasks[static_cast<size_t>(task)];
    partial_of_range(args, tiles[static_cast<size_t>(range_task.tile)], range_task.range,
                     thread_memory + thread_index * thread_floats, kScoresStride,
                     shape.At(task_memory + task * shape.num_floats()));
  });
  // Some microseconds: not worth another round of the pool.
  const AttentionPartial merged = shape.At(thread_memory + shape.num_queries * kScoresStride);
  for (size_t task = 0; task < range_tasks.size();) {
    const int tile_index = range_tasks[task].tile;
    const AttentionTile& tile = tiles[static_cast<size_t>(tile_index)];
    clear(merged);
    for (; task < range_tasks.size() && range_tasks[task].tile == tile_index; ++task) {
      merge_partial(shape.At(task_memory + static_cast<int64_t>(task) * shape.num_floats()), tile.num_rows * group,
                    v_row_size, merged);
    }
    write_out(args, tile, merged);
  }
  return KernelError::kOk;
}

}  // namespace outrider::kernels
#endif  // HWY_ONCE
