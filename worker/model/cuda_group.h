// CudaGroup: what a GPU has to do with the other ranks of its group: the sums at the end of row-parallel products, and
// sampling from a vocabulary of which it holds a part.
//
// Thread safety: none; one thread runs the steps of a rank.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/activations.h"
#include "worker/model/cuda_all_reduce.h"
#include "worker/model/cuda_backend.h"
#include "worker/model/cuda_memory.h"
#include "worker/model/sharded_sampling.h"

namespace outrider {

class CudaGroup final : private ShardLogits {
 public:
  // A collective. Errors: those of CudaAllReduce::Create. `options` is copied; what it points at outlives the result.
  static absl::StatusOr<std::unique_ptr<CudaGroup>> Create(const CudaOpsOptions& options);

  bool capturable() const { return all_reduce_->capturable(); }
  // [max_step_tokens, hidden_size] bf16: where a row-parallel product leaves this rank's part.
  const Activation& part() const { return part_; }

  // hidden += the sum of the ranks' parts; normed = its RMSNorm if there are weights.
  absl::Status SumAndNorm(int num_rows, const Activation& hidden, const float* norm_weight, const Activation& normed,
                          cudaStream_t stream);

  // Waits for what was queued; see CudaAllReduce::Wait.
  absl::Status Wait(cudaStream_t stream) { return all_reduce_->Wait(stream); }

  // The logits of a step: this rank's part of the vocabulary.
  struct StepLogits {
    Activation logits;  // of the device
    int num_rows = 0;
    cudaStream_t stream = nullptr;
    // All rows in host memory, logits.stride apart; has waited.
    std::function<absl::StatusOr<const float*>()> host_rows;
  };
  // As Ops::SampleVerify.
  absl::Status SampleVerify(std::span<const kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                            StepLogits logits, std::span<kernels::VerifiedSpan> results);

 private:
  explicit CudaGroup(const CudaOpsOptions& options);
  absl::Status Best(std::span<const int> rows, std::span<ShardBest> best) override;
  absl::StatusOr<Rows> All() override;

  const CudaOpsOptions options_;
  const IndexRange vocab_;
  std::unique_ptr<CudaAllReduce> all_reduce_;
  ShardedSampling sampling_;
  CudaMemory part_memory_;
  Activation part_;
  CudaMemory best_, best_host_;  // of a step's rows: ids, then highest logits
  StepLogits step_;
};

}  // namespace outrider
