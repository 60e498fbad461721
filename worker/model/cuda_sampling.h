// CudaSampling: a step's target tokens on one GPU that holds the whole vocabulary. Spans chosen by their highest logit
// cross as ids, other spans as row summaries (kernels/sampling/row_summary.h), whose rows are edited on the device
// where bias, masks or penalties change them, and as whole rows only those whose drafts are accepted by rejection, that
// have too many edits, or that their summaries do not decide. The tokens are those of whole rows, whichever way a row
// takes.
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
  CudaSampling(int vocab_size, kernels::ThreadPool& pool) : vocab_size_(vocab_size), pool_(pool), plan_(vocab_size) {}

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
  // Everything of plan_.
  absl::Status QueueSummaries(const StepLogits& step);
  absl::Status QueueRequests(std::span<const kernels::SummaryRequest> requests, std::span<const int32_t> rows,
                             kernels::RowSummary* summaries, const StepLogits& step);
  absl::Status ReserveSummaries(int64_t num_requests);
  absl::Status ReserveEdits(int64_t num_edits);
  // Puts the values where the device reads them.
  template <typename T>
  T* Place(std::span<const T> values);
  void VerifySummaries(std::span<const kernels::VerifySpan> spans, std::span<kernels::VerifiedSpan> results);
  absl::Status VerifyWholeRows(std::span<const kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                               const StepLogits& step, const float* logits, std::span<kernels::VerifiedSpan> results);

  const int vocab_size_;
  kernels::ThreadPool& pool_;
  int64_t num_rows_max_ = 0;
  CudaMemory best_ids_, best_ids_host_;  // [num_rows_max]
  // Pinned; the device reads there what plan_ asks, and writes summaries and the logits before edits.
  CudaMemory requests_, summaries_;
  int64_t summary_capacity_ = 0;  // requests
  CudaMemory edits_, raw_logits_;
  CudaMemory originals_;  // device
  int64_t edit_capacity_ = 0;

  // Of a step; kept for their memory.
  kernels::SummaryPlan plan_;
  uint8_t* place_ = nullptr;                // in requests_: where the next values go
  std::vector<size_t> summarized_, whole_;  // spans
  std::vector<uint8_t> is_decided_;         // of each summarized span
  std::vector<kernels::VerifySpan> whole_spans_;
  std::vector<kernels::VerifiedSpan> whole_results_;
  std::vector<kernels::SamplingScratch> scratch_;  // one a thread
};

}  // namespace outrider
