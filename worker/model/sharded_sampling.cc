#include "worker/model/sharded_sampling.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status_macros.h"
#include "worker/model/kernel_status.h"
#include "worker/model/plain_greedy.h"

namespace outrider {

ShardedSampling::ShardedSampling(const ShardPlan& plan, int rank, int vocab_size, Communicator& communicator,
                                 kernels::ThreadPool& pool)
    : plan_(plan),
      rank_(rank),
      vocab_size_(vocab_size),
      communicator_(communicator),
      pool_(pool),
      bytes_of_rank_(plan.ranks.size()) {}

absl::Status ShardedSampling::SampleVerify(std::span<const kernels::VerifySpan> spans,
                                           std::span<const int> first_logit_rows, ShardLogits& logits,
                                           std::span<kernels::VerifiedSpan> results) {
  greedy_spans_.clear();
  gathered_spans_.clear();
  greedy_rows_.clear();
  gathered_rows_.clear();
  for (size_t i = 0; i < spans.size(); ++i) {
    const bool is_greedy = IsPlainGreedy(spans[i]);
    (is_greedy ? greedy_spans_ : gathered_spans_).push_back(i);
    std::vector<int>& rows = is_greedy ? greedy_rows_ : gathered_rows_;
    for (size_t j = 0; j <= spans[i].draft_ids.size(); ++j) rows.push_back(first_logit_rows[i] + static_cast<int>(j));
  }
  if (!greedy_rows_.empty()) RETURN_IF_ERROR(VerifyGreedy(spans, logits, results));
  if (!gathered_rows_.empty()) RETURN_IF_ERROR(VerifyGathered(spans, logits, results));
  return absl::OkStatus();
}

absl::Status ShardedSampling::VerifyGreedy(std::span<const kernels::VerifySpan> spans, ShardLogits& logits,
                                           std::span<kernels::VerifiedSpan> results) {
  const size_t num_rows = greedy_rows_.size();
  shard_best_.resize(num_rows);
  all_best_.resize(num_rows * plan_.ranks.size());
  RETURN_IF_ERROR(logits.Best(greedy_rows_, shard_best_));
  std::fill(bytes_of_rank_.begin(), bytes_of_rank_.end(), static_cast<int64_t>(num_rows * sizeof(ShardBest)));
  RETURN_IF_ERROR(communicator_.AllGather(shard_best_.data(), bytes_of_rank_.data(), all_best_.data()));
  size_t row = 0;
  for (const size_t i : greedy_spans_) {
    VerifyPlainGreedy(
        spans[i], [&](size_t j) { return BestOfRanks(row + j, num_rows); }, &results[i]);
    row += spans[i].draft_ids.size() + 1;
  }
  return absl::OkStatus();
}

// The highest logit over all ranks, ties to the lowest rank and so to the lowest id; -1 if the row is not finite.
TokenId ShardedSampling::BestOfRanks(size_t row, size_t num_rows) const {
  ShardBest best;
  for (size_t rank = 0; rank < plan_.ranks.size(); ++rank) {
    const ShardBest& candidate = all_best_[rank * num_rows + row];
    if (candidate.token_id < 0) return -1;
    if (best.token_id < 0 || candidate.value > best.value) best = candidate;
  }
  return best.value == ShardBest{}.value ? -1 : best.token_id;
}

absl::Status ShardedSampling::VerifyGathered(std::span<const kernels::VerifySpan> spans, ShardLogits& logits,
                                             std::span<kernels::VerifiedSpan> results) {
  const int64_t num_rows = static_cast<int64_t>(gathered_rows_.size());
  const int64_t shard_size = plan_.ranks[rank_].vocab.size();
  send_logits_.resize(num_rows * shard_size);
  received_logits_.resize(num_rows * vocab_size_);
  full_logits_.resize(num_rows * vocab_size_);
  ASSIGN_OR_RETURN(const ShardLogits::Rows own, logits.All());
  for (int64_t row = 0; row < num_rows; ++row) {
    std::memcpy(send_logits_.data() + row * shard_size, own.data + gathered_rows_[row] * own.stride,
                static_cast<size_t>(shard_size) * sizeof(float));
  }
  for (size_t rank = 0; rank < plan_.ranks.size(); ++rank) {
    bytes_of_rank_[rank] = num_rows * plan_.ranks[rank].vocab.size() * static_cast<int64_t>(sizeof(float));
  }
  RETURN_IF_ERROR(communicator_.AllGather(send_logits_.data(), bytes_of_rank_.data(), received_logits_.data()));
  // [rank][row][its part] to [row][vocabulary]
  const float* source = received_logits_.data();
  for (const RankShard& rank : plan_.ranks) {
    const int64_t size = rank.vocab.size();
    for (int64_t r = 0; r < num_rows; ++r, source += size) {
      std::memcpy(full_logits_.data() + r * vocab_size_ + rank.vocab.first, source,
                  static_cast<size_t>(size) * sizeof(float));
    }
  }
  gathered_inputs_.clear();
  gathered_results_.resize(gathered_spans_.size());
  int64_t row = 0;
  for (const size_t i : gathered_spans_) {
    kernels::VerifySpan span = spans[i];
    span.logits = full_logits_.data() + row * vocab_size_;
    span.logits_stride = vocab_size_;
    row += static_cast<int64_t>(span.draft_ids.size()) + 1;
    gathered_inputs_.push_back(std::move(span));
  }
  RETURN_IF_ERROR(KernelStatus(
      kernels::VerifyDrafts(gathered_inputs_, static_cast<int>(vocab_size_), gathered_results_, pool_, scratch_),
      "sampling"));
  for (size_t n = 0; n < gathered_spans_.size(); ++n) std::swap(results[gathered_spans_[n]], gathered_results_[n]);
  return absl::OkStatus();
}

}  // namespace outrider
