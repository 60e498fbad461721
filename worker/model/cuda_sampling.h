// CudaSampling: a step's target tokens on one GPU that holds the whole vocabulary. Spans chosen by their highest logit
// cross as ids, other spans as row summaries (kernels/sampling/row_summary.h), and as whole rows only those whose
// logits are changed by penalties, bias or masks, whose drafts are accepted by rejection, or which their summaries do
// not decide. The tokens are those of whole rows, whichever way a row takes.
//
// Thread safety: none; one thread runs the steps of a rank.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/common/thread_pool.h"
#include "kernels/sampling/verify_summaries.h"
#include "worker/model/activations.h"
#include "worker/model/cuda_memory.h"

namespace outrider {

class CudaSampling {
 public:
  // `pool` outlives this.
  CudaSampling(int vocab_size, kernels::ThreadPool& pool) : vocab_size_(vocab_size), pool_(pool) {}

  // Memory for steps of up to num_rows_max rows; that of summaries grows with use. RESOURCE_EXHAUSTED.
  absl::Status Init(int64_t num_rows_max);

  // The logits of a step.
  struct StepLogits {
    Activation logits;  // of the device
    int num_rows = 0;
    cudaStream_t stream = nullptr;
    // All rows in host memory, logits.stride apart; has waited.
    std::function<absl::StatusOr<const float*>()> host_rows;
  };
  // As Ops::SampleVerify.
  absl::Status SampleVerify(std::span<const kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                            const StepLogits& step, std::span<kernels::VerifiedSpan> results);

 private:
  absl::Status QueueGreedy(const StepLogits& step);
  absl::Status QueueSummaries(std::span<const kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                              const StepLogits& step);
  absl::Status ReserveSummaries(int64_t num_rows);
  void VerifySummaries(std::span<const kernels::VerifySpan> spans, std::span<kernels::VerifiedSpan> results);
  absl::Status VerifyWholeRows(std::span<const kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                               const StepLogits& step, const float* logits, std::span<kernels::VerifiedSpan> results);

  const int vocab_size_;
  kernels::ThreadPool& pool_;
  int64_t num_rows_max_ = 0;
  CudaMemory best_ids_, best_ids_host_;  // [num_rows_max]
  CudaMemory requests_, requests_host_;  // SummaryRequest [rows], then int32_t [rows]: the logits rows
  CudaMemory summaries_;                 // RowSummary [rows], pinned; the device writes there
  int64_t summary_capacity_ = 0;         // rows

  // Of a step; kept for their memory.
  std::vector<size_t> summarized_, whole_;  // spans
  std::vector<int64_t> first_summaries_;    // of each summarized span
  std::vector<uint8_t> is_decided_;         // of each summarized span
  std::vector<kernels::VerifySpan> whole_spans_;
  std::vector<kernels::VerifiedSpan> whole_results_;
  std::vector<kernels::SamplingScratch> scratch_;  // one a thread
};

}  // namespace outrider
