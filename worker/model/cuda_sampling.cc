#include "worker/model/cuda_sampling.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status_macros.h"
#include "kernels/sampling/device_argmax.h"
#include "kernels/sampling/device_row_edits.h"
#include "kernels/sampling/device_row_summary.h"
#include "worker/model/kernel_status.h"
#include "worker/model/plain_greedy.h"

namespace outrider {
namespace {

// Of a request, its row, and that row's edits' place.
constexpr int64_t kRequestBytes = sizeof(kernels::SummaryRequest) + sizeof(int32_t) + sizeof(kernels::EditedRow);
static_assert(alignof(kernels::EditedRow) <= 4 && alignof(kernels::SummaryRequest) == 8);

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
  plan_.Clear();
  summarized_.clear();
  whole_.clear();
  bool any_greedy = false;
  for (size_t i = 0; i < spans.size(); ++i) {
    if (IsPlainGreedy(spans[i])) {
      any_greedy = true;
    } else {
      (plan_.Add(spans[i], first_logit_rows[i]) ? summarized_ : whole_).push_back(i);
    }
  }
  if (any_greedy) RETURN_IF_ERROR(QueueGreedy(step));
  if (!summarized_.empty()) RETURN_IF_ERROR(QueueSummaries(step));
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

absl::Status CudaSampling::ReserveSummaries(int64_t num_requests) {
  if (num_requests <= summary_capacity_) return absl::OkStatus();
  // Twice what is asked for now, so that it grows seldom. A row has two at most.
  const int64_t capacity = std::min(2 * num_requests, 2 * num_rows_max_);
  summary_capacity_ = 0;
  ASSIGN_OR_RETURN(requests_,
                   CudaMemory::Allocate(CudaMemoryKind::kPinned, capacity * kRequestBytes, "sampling requests"));
  ASSIGN_OR_RETURN(summaries_,
                   CudaMemory::Allocate(CudaMemoryKind::kPinned,
                                        capacity * static_cast<int64_t>(sizeof(kernels::RowSummary)), "row summaries"));
  summary_capacity_ = capacity;
  return absl::OkStatus();
}

absl::Status CudaSampling::ReserveEdits(int64_t num_edits) {
  if (num_edits <= edit_capacity_) return absl::OkStatus();
  const int64_t capacity = std::min(2 * num_edits, static_cast<int64_t>(kernels::kStepEditsMax));
  edit_capacity_ = 0;
  ASSIGN_OR_RETURN(edits_, CudaMemory::Allocate(CudaMemoryKind::kPinned,
                                                capacity * static_cast<int64_t>(sizeof(kernels::RowEdit)), "edits"));
  ASSIGN_OR_RETURN(raw_logits_, CudaMemory::Allocate(CudaMemoryKind::kPinned, capacity * 4, "edited logits"));
  ASSIGN_OR_RETURN(originals_, CudaMemory::Allocate(CudaMemoryKind::kDevice,
                                                    capacity * static_cast<int64_t>(sizeof(kernels::OriginalLogit)),
                                                    "edited logits"));
  edit_capacity_ = capacity;
  return absl::OkStatus();
}

template <typename T>
T* CudaSampling::Place(std::span<const T> values) {
  T* const to = reinterpret_cast<T*>(place_);
  if (!values.empty()) std::memcpy(to, values.data(), values.size_bytes());
  place_ += values.size_bytes();
  return to;
}

absl::Status CudaSampling::QueueRequests(std::span<const kernels::SummaryRequest> requests,
                                         std::span<const int32_t> rows, kernels::RowSummary* summaries,
                                         const StepLogits& step) {
  return KernelStatus(kernels::DeviceRowSummary({.logits = static_cast<const float*>(step.logits.data),
                                                 .logits_stride = step.logits.stride,
                                                 .vocab_size = vocab_size_,
                                                 .num_requests = static_cast<int>(requests.size()),
                                                 .rows = rows.data(),
                                                 .requests = requests.data(),
                                                 .summaries = summaries},
                                                step.stream),
                      "row summaries");
}

absl::Status CudaSampling::QueueSummaries(const StepLogits& step) {
  const size_t num_requests = plan_.requests().size(), num_raw = plan_.raw_requests().size();
  // Every step waits for its sampling, so nothing in the stream uses this memory.
  RETURN_IF_ERROR(ReserveSummaries(static_cast<int64_t>(num_requests + num_raw)));
  RETURN_IF_ERROR(ReserveEdits(static_cast<int64_t>(plan_.edits().size())));
  place_ = requests_.data<uint8_t>();
  const std::span requests(Place(plan_.requests()), num_requests);
  const std::span raw_requests(Place(plan_.raw_requests()), num_raw);
  const std::span rows(Place(plan_.logit_rows()), num_requests);
  const std::span raw_rows(Place(plan_.raw_logit_rows()), num_raw);
  kernels::RowSummary* const summaries = summaries_.data<kernels::RowSummary>();
  if (plan_.edits().empty()) return QueueRequests(requests, rows, summaries, step);

  std::memcpy(edits_.data(), plan_.edits().data(), plan_.edits().size_bytes());
  const kernels::DeviceRowEditsArgs edits = {.logits = static_cast<float*>(step.logits.data),
                                             .logits_stride = step.logits.stride,
                                             .num_rows = static_cast<int>(plan_.edited_rows().size()),
                                             .rows = Place(plan_.edited_rows()),
                                             .edits = edits_.data<kernels::RowEdit>(),
                                             .originals = originals_.data<kernels::OriginalLogit>(),
                                             .raw_logits = raw_logits_.data<float>()};
  RETURN_IF_ERROR(QueueRequests(raw_requests, raw_rows, summaries + num_requests, step));
  RETURN_IF_ERROR(KernelStatus(kernels::DeviceApplyRowEdits(edits, step.stream), "edits of rows"));
  RETURN_IF_ERROR(QueueRequests(requests, rows, summaries, step));
  // Whoever reads the logits later reads the model's.
  return KernelStatus(kernels::DeviceRestoreRows(edits, step.stream), "edits of rows");
}

// Spans that are not decided join whole_.
void CudaSampling::VerifySummaries(std::span<const kernels::VerifySpan> spans,
                                   std::span<kernels::VerifiedSpan> results) {
  is_decided_.assign(summarized_.size(), 0);
  const kernels::RowSummary* const summaries = summaries_.data<kernels::RowSummary>();
  const kernels::SummaryPlan::Answers answers = {.summaries = summaries,
                                                 .raw_summaries = summaries + plan_.requests().size(),
                                                 .raw_logits = raw_logits_.data<float>()};
  pool_.ParallelFor(static_cast<int64_t>(summarized_.size()), [&](int64_t n, int thread_index) {
    const size_t i = static_cast<size_t>(n), span = summarized_[i];
    is_decided_[i] = plan_.Verify(i, spans[span], answers, scratch_[static_cast<size_t>(thread_index)], &results[span]);
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
