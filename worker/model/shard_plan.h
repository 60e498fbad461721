// ShardPlan says which heads, features and vocabulary rows belong to rank r of n. Pure.
//
// Megatron-LM's column and row parallel layers (arXiv:1909.08053), cut contiguously and, where they must, unevenly:
//   attention  by KV group: 9 query and 3 KV heads over 2 ranks are 6 + 3 and 2 + 1. Only when ranks outnumber KV heads
//              are the query heads of a group split, and its KV head replicated
//   feed-forward  in units of 32 intermediate features, so that quantised blocks stay whole
//   head       in units of 16 vocabulary rows (a group of the packed layout)
// Earlier ranks get the larger part.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/gemm/packed_matrix.h"  // IndexRange
#include "worker/model/model_config.h"

namespace outrider {

using kernels::IndexRange;

struct RankShard {
  IndexRange heads;         // query heads; not empty
  IndexRange kv_heads;      // not empty; heads.size() is a multiple of kv_heads.size()
  IndexRange intermediate;  // rows of gate and up, columns of down; not empty
  IndexRange vocab;         // rows of the head; not empty
};

struct ShardPlan {
  std::vector<RankShard> ranks;  // [world_size]

  // "heads 0-6,6-9 kv 0-2,2-3 ...": part of a group's numerics_id, since it fixes the order of sums.
  std::string ToString() const;
};

inline constexpr int kIntermediateUnit = 32;
inline constexpr int kVocabUnit = 16;

// INVALID_ARGUMENT if world_size is below 1 or above the number of query heads, intermediate units or vocabulary
// units, naming the numbers. REQUIRES: Validate(config) is OK.
absl::StatusOr<ShardPlan> PlanShards(const ModelConfig& config, int world_size);

}  // namespace outrider
