// Sampling and verification where the vocabulary is split over ranks: every rank chooses the tokens that one rank with
// all logits would choose. Spans chosen by their highest logit exchange (value, id) a row; of the others whole rows are
// gathered. Where the logits lie is the backend's business.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "kernels/common/thread_pool.h"
#include "kernels/sampling/verify_draft.h"
#include "worker/model/shard_plan.h"
#include "worker/parallel/communicator.h"

namespace outrider {

// What a rank says of one row of its part of the vocabulary when rows are chosen by their highest logit alone.
struct ShardBest {
  float value = -std::numeric_limits<float>::infinity();
  TokenId token_id = -1;  // -1: this rank's logits are not finite
};

// A rank's part of a step's logits.
class ShardLogits {
 public:
  virtual ~ShardLogits() = default;
  // best[i] is of row rows[i]; ties to the lowest id.
  virtual absl::Status Best(std::span<const int> rows, std::span<ShardBest> best) = 0;
  struct Rows {
    const float* data = nullptr;  // row r at data + r * stride; host memory
    int64_t stride = 0;
  };
  // Of all the step's rows.
  virtual absl::StatusOr<Rows> All() = 0;
};

// Thread safety: none.
class ShardedSampling {
 public:
  // Everything outlives this.
  ShardedSampling(const ShardPlan& plan, int rank, int vocab_size, Communicator& communicator,
                  kernels::ThreadPool& pool);

  // As Ops::SampleVerify; a collective. Errors: those of the communicator and of `logits`.
  absl::Status SampleVerify(std::span<const kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                            ShardLogits& logits, std::span<kernels::VerifiedSpan> results);

 private:
  absl::Status VerifyGreedy(std::span<const kernels::VerifySpan> spans, ShardLogits& logits,
                            std::span<kernels::VerifiedSpan> results);
  absl::Status VerifyGathered(std::span<const kernels::VerifySpan> spans, ShardLogits& logits,
                              std::span<kernels::VerifiedSpan> results);
  TokenId BestOfRanks(size_t row, size_t num_rows) const;

  const ShardPlan& plan_;
  const int rank_;
  const int64_t vocab_size_;
  Communicator& communicator_;
  kernels::ThreadPool& pool_;

  // Kept between steps for their memory.
  std::vector<int64_t> bytes_of_rank_;  // [world_size]
  std::vector<size_t> greedy_spans_, gathered_spans_;
  std::vector<int> greedy_rows_, gathered_rows_;
  std::vector<ShardBest> shard_best_;  // [greedy rows]
  std::vector<ShardBest> all_best_;    // [world_size, greedy rows]
  std::vector<float> send_logits_, received_logits_, full_logits_;
  std::vector<kernels::VerifySpan> gathered_inputs_;
  std::vector<kernels::VerifiedSpan> gathered_results_;
  std::vector<kernels::SamplingScratch> scratch_;
};

}  // namespace outrider
