#include "worker/model/shard_plan.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

// Part `index` of `num_parts` of [0, size), contiguous; the first size % num_parts parts are one larger.
IndexRange Part(int64_t size, int num_parts, int index) {
  const int64_t small = size / num_parts;
  const int64_t num_large = size % num_parts;
  const int64_t first = index * small + std::min<int64_t>(index, num_large);
  return {first, first + small + (index < num_large ? 1 : 0)};
}

// The same in whole units of `unit`; the last unit of [0, size) may be short.
IndexRange UnitPart(int64_t size, int64_t unit, int num_parts, int index) {
  const IndexRange units = Part((size + unit - 1) / unit, num_parts, index);
  return {units.first * unit, std::min(units.end * unit, size)};
}

absl::Status TooManyRanks(int world_size, int64_t limit, absl::string_view of_what) {
  return absl::InvalidArgumentError(absl::StrCat("tensor parallel size ", world_size, " is more than the model's ",
                                                 limit, " ", of_what, "; use ", limit, " ranks at most"));
}

std::string RangeString(const IndexRange& range) { return absl::StrCat(range.first, "-", range.end); }

}  // namespace

std::string ShardPlan::ToString() const {
  std::string text;
  for (const RankShard& rank : ranks) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", "heads ", RangeString(rank.heads), " kv ",
                    RangeString(rank.kv_heads), " intermediate ", RangeString(rank.intermediate), " vocab ",
                    RangeString(rank.vocab));
  }
  return text;
}

absl::StatusOr<ShardPlan> PlanShards(const ModelConfig& config, int world_size) {
  if (world_size < 1) {
    return absl::InvalidArgumentError(absl::StrCat("tensor parallel size is ", world_size, "; it must be at least 1"));
  }
  if (world_size > config.num_heads) return TooManyRanks(world_size, config.num_heads, "attention heads");
  const int64_t intermediate_units = (config.intermediate_size + kIntermediateUnit - 1) / kIntermediateUnit;
  if (world_size > intermediate_units) {
    return TooManyRanks(world_size, intermediate_units, "units of 32 intermediate features");
  }
  const int64_t vocab_units = (config.vocab_size + kVocabUnit - 1) / kVocabUnit;
  if (world_size > vocab_units) return TooManyRanks(world_size, vocab_units, "units of 16 vocabulary rows");

  const int group_size = config.num_heads / config.num_kv_heads;
  ShardPlan plan;
  plan.ranks.reserve(world_size);
  for (int rank = 0; rank < world_size; ++rank) {
    RankShard shard;
    if (world_size <= config.num_kv_heads) {
      shard.kv_heads = Part(config.num_kv_heads, world_size, rank);
      shard.heads = {shard.kv_heads.first * group_size, shard.kv_heads.end * group_size};
    } else {
      // Ranks are dealt to KV heads as heads are dealt to ranks above; those of one KV head share its query heads.
      int kv_head = 0;
      IndexRange ranks = Part(world_size, config.num_kv_heads, kv_head);
      while (rank >= ranks.end) ranks = Part(world_size, config.num_kv_heads, ++kv_head);
      const IndexRange heads = Part(group_size, static_cast<int>(ranks.size()), rank - static_cast<int>(ranks.first));
      shard.kv_heads = {kv_head, kv_head + 1};
      shard.heads = {kv_head * group_size + heads.first, kv_head * group_size + heads.end};
    }
    shard.intermediate = UnitPart(config.intermediate_size, kIntermediateUnit, world_size, rank);
    shard.vocab = UnitPart(config.vocab_size, kVocabUnit, world_size, rank);
    plan.ranks.push_back(shard);
  }
  return plan;
}

}  // namespace outrider
