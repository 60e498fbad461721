#include "kernels/attention/device_attention_plan.h"

#include <algorithm>

namespace outrider::kernels {

namespace {

// A multiprocessor's share; measured on an H200 with the heads of an 8B model (kernels/README.md).
constexpr double kBlockRangesMax = 3;      // ranges times KV heads where tiles are half empty, as in decode
constexpr double kFullBlockRangesMax = 6;  // where they are not
constexpr double kSplitTilesMax = 2.5;     // tiles times KV heads
constexpr double kDeepTilesMax = 4.5;

}  // namespace

void DeviceAttentionPlan::Make(std::span<const AttentionSpan> spans, std::span<const int32_t> block_table_offsets,
                               int num_heads, int num_kv_heads, int num_multiprocessors, int64_t num_partials_max) {
  tiles_.clear();
  wide_.clear();
  const int group = num_heads / num_kv_heads;
  int64_t num_partials = 0, num_wide_partials = 0;
  int num_ranges_max = 1, num_wide_ranges_max = 1;
  narrow_pairs_max_ = 0;
  num_rows_ = 0;
  // Up to kHalfWidePairs pairs are sooner done in narrow tiles while all their ranges run at once.
  int64_t num_middle_blocks = 0;
  for (const AttentionSpan& span : spans) {
    const int num_pairs = span.num_rows * group;
    if (num_pairs <= kNarrowPairs || num_pairs > kHalfWidePairs) continue;
    const int num_ranges = (span.first_position + span.num_rows - 1) / kAttentionRangeSize + 1;
    num_middle_blocks += int64_t{(num_pairs + kNarrowPairs - 1) / kNarrowPairs} * num_ranges * num_kv_heads;
  }
  const int narrow_span_max = num_middle_blocks <= num_multiprocessors ? kHalfWidePairs : kNarrowPairs;
  for (size_t i = 0; i < spans.size(); ++i) {
    const AttentionSpan& span = spans[i];
    num_rows_ += span.num_rows;
    const int num_pairs = span.num_rows * group;
    const bool wide = num_pairs > narrow_span_max;
    const int pairs_a_tile = num_pairs > kWidePairsMin ? kWidePairs : wide ? kHalfWidePairs : kNarrowPairs;
    for (int first = 0; first < num_pairs; first += pairs_a_tile) {
      DeviceAttentionTile tile{.first_row = span.first_row,
                               .first_position = span.first_position,
                               .first_pair = first,
                               .num_pairs = std::min(pairs_a_tile, num_pairs - first),
                               .block_table = block_table_offsets[i]};
      const int last_position = span.first_position + (first + tile.num_pairs - 1) / group;
      const int num_ranges = last_position / kAttentionRangeSize + 1;
      int64_t& num_before = wide ? num_wide_partials : num_partials;
      tile.first_partial = static_cast<int32_t>(std::min<int64_t>(num_before, INT32_MAX));
      num_before += int64_t{num_ranges} * ((tile.num_pairs + 15) / 16);
      int& ranges_max = wide ? num_wide_ranges_max : num_ranges_max;
      ranges_max = std::max(ranges_max, num_ranges);
      if (!wide) narrow_pairs_max_ = std::max(narrow_pairs_max_, tile.num_pairs);
      (wide ? wide_ : tiles_).push_back(tile);
    }
  }
  num_narrow_ = static_cast<int>(tiles_.size());
  // Blocks are soonest done while all run at once. Warps share the memory's rate among many tiles, and take a range
  // each while there are few.
  const double num_tiles = static_cast<double>(num_narrow_) * num_kv_heads / num_multiprocessors;
  const double num_ranges = static_cast<double>(num_partials) * num_kv_heads / num_multiprocessors;
  const bool can_split = num_partials * num_kv_heads <= num_partials_max;
  const bool blocks =
      can_split && num_ranges <= (narrow_pairs_max_ <= kNarrowPairs / 2 ? kBlockRangesMax : kFullBlockRangesMax);
  const bool split = can_split && (blocks || num_tiles <= kSplitTilesMax);
  kernel_ = blocks ? Kernel::kBlocks : !split && num_tiles <= kDeepTilesMax ? Kernel::kDeepWarps : Kernel::kWarps;
  num_splits_ = split ? num_ranges_max : 1;
  whole_spans_ = blocks && wide_.empty() && tiles_.size() == spans.size();
  const bool split_wide = (num_partials + num_wide_partials) * num_kv_heads <= num_partials_max &&
                          static_cast<int64_t>(wide_.size()) * num_kv_heads < num_multiprocessors;
  num_wide_splits_ = split_wide ? num_wide_ranges_max : 1;
  for (DeviceAttentionTile& tile : wide_) {
    if (split_wide) tile.first_partial += static_cast<int32_t>(num_partials);
    tiles_.push_back(tile);
  }
}

}  // namespace outrider::kernels
