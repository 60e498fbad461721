#include "worker/model/cuda_sampling.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "kernels/sampling/device_argmax.h"
#include "kernels/sampling/device_row_summary.h"
#include "worker/model/kernel_status.h"
#include "worker/model/plain_greedy.h"

namespace outrider {
namespace {

constexpr int64_t kRequestBytes = sizeof(kernels::SummaryRequest) + sizeof(int32_t);

int64_t NumRows(const kernels::VerifySpan& span) { return static_cast<int64_t>(span.draft_ids.size()) + 1; }

}  // namespace

absl::Status CudaSampling::Init(int64_t num_rows_max) {
  num_rows_max_ = num_rows_max;
  ASSIGN_OR_RETURN(best_ids_, CudaMemory::Allocate(CudaMemoryKind::kDevice, num_rows_max * 4, "chosen ids"));
  ASSIGN_OR_RETURN(best_ids_host_, CudaMemory::Allocate(CudaMemoryKind::kPinned, num_rows_max * 4, "chosen ids"));
  scratch_.resize(static_cast<size_t>(pool_.num_threads()));
  return absl::OkStatus();
}

absl::Status CudaSampling::SampleVerify(std::span<const kernels::VerifySpan> spans,
                                        std::span<const int> first_logit_rows, const StepLogits& step,
                                        std::span<kernels::VerifiedSpan> results) {
  summarized_.clear();
  whole_.clear();
  bool any_greedy = false;
  for (size_t i = 0; i < spans.size(); ++i) {
    if (IsPlainGreedy(spans[i])) {
      any_greedy = true;
    } else {
      (kernels::IsSummarizable(spans[i]) ? summarized_ : whole_).push_back(i);
    }
  }
  if (any_greedy) RETURN_IF_ERROR(QueueGreedy(step));
  if (!summarized_.empty()) RETURN_IF_ERROR(QueueSummaries(spans, first_logit_rows, step));
  const float* logits = nullptr;
  if (!whole_.empty()) {
    ASSIGN_OR_RETURN(logits, step.host_rows());
  } else {
    RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(step.stream), "step"));
  }
  for (size_t i = 0; any_greedy && i < spans.size(); ++i) {
    if (!IsPlainGreedy(spans[i])) continue;
    const int32_t* const ids = best_ids_host_.data<int32_t>() + first_logit_rows[i];
    VerifyPlainGreedy(
        spans[i], [&](size_t j) { return ids[j]; }, &results[i]);
  }
  if (!summarized_.empty()) VerifySummaries(spans, results);
  return whole_.empty() ? absl::OkStatus() : VerifyWholeRows(spans, first_logit_rows, step, logits, results);
}

absl::Status CudaSampling::QueueGreedy(const StepLogits& step) {
  RETURN_IF_ERROR(KernelStatus(kernels::DeviceArgMax({.logits = static_cast<const float*>(step.logits.data),
                                                      .logits_stride = step.logits.stride,
                                                      .num_rows = step.num_rows,
                                                      .vocab_size = step.logits.num_columns,
                                                      .token_ids = best_ids_.data<int32_t>()},
                                                     step.stream),
                               "greedy choice"));
  return CudaStatus(cudaMemcpyAsync(best_ids_host_.data(), best_ids_.data(), static_cast<size_t>(step.num_rows) * 4,
                                    cudaMemcpyDeviceToHost, step.stream),
                    "reading chosen ids");
}

absl::Status CudaSampling::ReserveSummaries(int64_t num_rows) {
  if (num_rows <= summary_capacity_) return absl::OkStatus();
  // Twice what is asked for now, so that it grows seldom.
  const int64_t capacity = std::min(2 * num_rows, num_rows_max_);
  summary_capacity_ = 0;
  ASSIGN_OR_RETURN(requests_,
                   CudaMemory::Allocate(CudaMemoryKind::kDevice, capacity * kRequestBytes, "sampling requests"));
  ASSIGN_OR_RETURN(requests_host_,
                   CudaMemory::Allocate(CudaMemoryKind::kPinned, capacity * kRequestBytes, "sampling requests"));
  ASSIGN_OR_RETURN(summaries_,
                   CudaMemory::Allocate(CudaMemoryKind::kPinned,
                                        capacity * static_cast<int64_t>(sizeof(kernels::RowSummary)), "row summaries"));
  summary_capacity_ = capacity;
  return absl::OkStatus();
}

absl::Status CudaSampling::QueueSummaries(std::span<const kernels::VerifySpan> spans,
                                          std::span<const int> first_logit_rows, const StepLogits& step) {
  first_summaries_.clear();
  int64_t num_rows = 0;
  for (const size_t i : summarized_) {
    first_summaries_.push_back(num_rows);
    num_rows += NumRows(spans[i]);
  }
  // Every step waits for its sampling, so nothing in the stream uses this memory.
  RETURN_IF_ERROR(ReserveSummaries(num_rows));
  kernels::SummaryRequest* const requests = requests_host_.data<kernels::SummaryRequest>();
  int32_t* const rows = reinterpret_cast<int32_t*>(requests + num_rows);
  int64_t next = 0;
  for (const size_t i : summarized_) {
    for (int64_t j = 0; j < NumRows(spans[i]); ++j, ++next) {
      requests[next] = kernels::RequestOf(kernels::RowOfSpan(spans[i], static_cast<size_t>(j)), vocab_size_);
      rows[next] = first_logit_rows[i] + static_cast<int32_t>(j);
    }
  }
  RETURN_IF_ERROR(
      CudaStatus(cudaMemcpyAsync(requests_.data(), requests_host_.data(), static_cast<size_t>(num_rows * kRequestBytes),
                                 cudaMemcpyHostToDevice, step.stream),
                 "sampling requests"));
  const kernels::SummaryRequest* const device_requests = requests_.data<kernels::SummaryRequest>();
  return KernelStatus(kernels::DeviceRowSummary({.logits = static_cast<const float*>(step.logits.data),
                                                 .logits_stride = step.logits.stride,
                                                 .vocab_size = vocab_size_,
                                                 .num_requests = static_cast<int>(num_rows),
                                                 .rows = reinterpret_cast<const int32_t*>(device_requests + num_rows),
                                                 .requests = device_requests,
                                                 .summaries = summaries_.data<kernels::RowSummary>()},
                                                step.stream),
                      "row summaries");
}

// Spans that are not decided join whole_.
void CudaSampling::VerifySummaries(std::span<const kernels::VerifySpan> spans,
                                   std::span<kernels::VerifiedSpan> results) {
  is_decided_.assign(summarized_.size(), 0);
  pool_.ParallelFor(static_cast<int64_t>(summarized_.size()), [&](int64_t n, int thread_index) {
    const size_t i = static_cast<size_t>(n), span = summarized_[i];
    is_decided_[i] =
        kernels::VerifyFromSummaries(spans[span], summaries_.data<kernels::RowSummary>() + first_summaries_[i],
                                     vocab_size_, scratch_[static_cast<size_t>(thread_index)], &results[span]);
  });
  for (size_t n = 0; n < summarized_.size(); ++n) {
    if (is_decided_[n] == 0) whole_.push_back(summarized_[n]);
  }
}

absl::Status CudaSampling::VerifyWholeRows(std::span<const kernels::VerifySpan> spans,
                                           std::span<const int> first_logit_rows, const StepLogits& step,
                                           const float* logits, std::span<kernels::VerifiedSpan> results) {
  if (logits == nullptr) {
    ASSIGN_OR_RETURN(logits, step.host_rows());
  }
  whole_spans_.clear();
  whole_results_.resize(whole_.size());
  for (const size_t i : whole_) {
    kernels::VerifySpan span = spans[i];
    span.logits = logits + int64_t{first_logit_rows[i]} * step.logits.stride;
    span.logits_stride = step.logits.stride;
    whole_spans_.push_back(span);
  }
  RETURN_IF_ERROR(
      KernelStatus(kernels::VerifyDrafts(whole_spans_, vocab_size_, whole_results_, pool_, scratch_), "sampling"));
  for (size_t n = 0; n < whole_.size(); ++n) std::swap(results[whole_[n]], whole_results_[n]);
  return absl::OkStatus();
}

}  // namespace outrider
