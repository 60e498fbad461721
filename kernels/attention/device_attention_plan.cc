#include <algorithm>

#include "kernels/attention/device_attention.h"

namespace outrider::kernels {

KernelError DeviceKvLayout::Check() const {
  const bool power_of_two = block_size > 0 && (block_size & (block_size - 1)) == 0;
  const bool known_head = head_dim == 16 || head_dim == 32 || head_dim == 64 || head_dim == 128;
  if (!power_of_two || block_size > kAttentionRangeSize || num_blocks < 0 || num_kv_heads < 1 || !known_head) {
    return KernelError::kInvalidShape;
  }
  return KernelError::kOk;
}

void DeviceAttentionPlan::Make(std::span<const AttentionSpan> spans, std::span<const int32_t> block_table_offsets,
                               int num_heads, int num_kv_heads, int num_multiprocessors, int64_t num_partials_max) {
  tiles_.clear();
  wide_.clear();
  const int group = num_heads / num_kv_heads;
  int64_t num_partials = 0;
  int num_ranges_max = 1;
  for (size_t i = 0; i < spans.size(); ++i) {
    const AttentionSpan& span = spans[i];
    const int num_pairs = span.num_rows * group;
    // A wide tile reads keys and values once for many rows, but one block walks all their ranges: too slow for a few.
    const bool wide = num_pairs > kWidePairsMin;
    const int pairs_a_tile = wide ? kWidePairs : kNarrowPairs;
    for (int first = 0; first < num_pairs; first += pairs_a_tile) {
      DeviceAttentionTile tile{.first_row = span.first_row,
                               .first_position = span.first_position,
                               .first_pair = first,
                               .num_pairs = std::min(pairs_a_tile, num_pairs - first),
                               .block_table = block_table_offsets[i]};
      if (wide) {
        wide_.push_back(tile);
        continue;
      }
      const int last_position = span.first_position + (first + tile.num_pairs - 1) / group;
      const int num_ranges = last_position / kAttentionRangeSize + 1;
      tile.first_partial = static_cast<int32_t>(std::min<int64_t>(num_partials, INT32_MAX));
      num_partials += num_ranges;
      num_ranges_max = std::max(num_ranges_max, num_ranges);
      tiles_.push_back(tile);
    }
  }
  num_narrow_ = static_cast<int>(tiles_.size());
  // Enough tiles keep every multiprocessor busy without splitting.
  const bool few = int64_t{num_narrow_} * num_kv_heads < 2 * int64_t{num_multiprocessors};
  num_splits_ = few && num_partials * num_kv_heads <= num_partials_max ? num_ranges_max : 1;
  tiles_.insert(tiles_.end(), wide_.begin(), wide_.end());
}

int64_t DeviceAttentionWorkspaceBytes(const DeviceKvLayout& layout, int64_t num_partials_max) {
  const int64_t partial_bytes = int64_t{DeviceAttentionPlan::kNarrowPairs} * (layout.head_dim + 2) * 4;
  return num_partials_max * (partial_bytes + static_cast<int64_t>(sizeof(int32_t)));
}

}  // namespace outrider::kernels
