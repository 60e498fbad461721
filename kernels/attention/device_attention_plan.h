// DeviceAttentionPlan cuts the spans of a step into the tiles that DeviceAttention (device_attention.h) computes, and
// chooses the kernels and grids. None of its choices changes a bit of a row.
//
// Pure: no GPU is needed to make one. Thread safety: none; one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention/kv_layout.h"  // AttentionSpan, kAttentionRangeSize

namespace outrider::kernels {

// (row, head) pairs of one span that are computed together, for each KV head: pair p is row p / group, head p % group.
struct DeviceAttentionTile {
  int32_t first_row = 0;  // of the span
  int32_t first_position = 0;
  int32_t first_pair = 0;
  int32_t num_pairs = 0;
  int32_t block_table = 0;    // where the span's block table begins in `block_tables`
  int32_t first_partial = 0;  // number of partial results of the tiles before it: a range has one for each 16 pairs
};

// How the spans of a step are computed. Pure; reuses its memory.
class DeviceAttentionPlan {
 public:
  // How narrow tiles are computed; none changes a bit.
  enum class Kernel : uint8_t {
    kBlocks,     // a range of a tile is a block of eight warps: soonest done
    kWarps,      // a tile, or a range of one, is a warp: the most copies under way
    kDeepWarps,  // the same with a longer ring of copies each, for fewer
  };
  static constexpr int kNarrowPairs = 16;
  static constexpr int kWidePairs = 128;
  static constexpr int kWidePairsMin = 256;  // spans of more have wide tiles in full
  static constexpr int kHalfWidePairs = 64;  // others that are not narrow have wide tiles of so many

  // `block_table_offsets[i]` belongs to spans[i]. `num_partials_max` bounds the ranges that may be computed apart.
  void Make(std::span<const AttentionSpan> spans, std::span<const int32_t> block_table_offsets, int num_heads,
            int num_kv_heads, int num_multiprocessors, int64_t num_partials_max);

  // Tiles of up to kNarrowPairs, then tiles of up to kWidePairs.
  std::span<const DeviceAttentionTile> tiles() const { return tiles_; }
  int num_narrow() const { return num_narrow_; }
  Kernel kernel() const { return kernel_; }
  // Blocks of the grid a narrow tile and KV head: more than 1 if each range has its own.
  int num_splits() const { return num_splits_; }
  int num_wide_splits() const { return num_wide_splits_; }
  int narrow_pairs_max() const { return narrow_pairs_max_; }
  int num_rows() const { return num_rows_; }  // of all spans
  // Every span is one tile that blocks compute: a block has all rows of its span, so it can turn and append them too.
  bool whole_spans() const { return whole_spans_; }
  // Plans of equal grids and equal keys launch the same kernels.
  int32_t key() const {
    return num_wide_splits_ << 16 | num_splits_ << 3 | static_cast<int32_t>(kernel_) << 1 |
           (narrow_pairs_max_ <= kNarrowPairs / 2 ? 1 : 0) | (whole_spans_ ? 1 << 30 : 0);
  }

 private:
  std::vector<DeviceAttentionTile> tiles_, wide_;
  int num_narrow_ = 0;
  int num_splits_ = 1, num_wide_splits_ = 1;
  int narrow_pairs_max_ = 0;
  int num_rows_ = 0;
  bool whole_spans_ = false;
  Kernel kernel_ = Kernel::kWarps;
};

}  // namespace outrider::kernels
