#include "kernels/sampling/verify_draft.h"

#include <algorithm>

namespace outrider::kernels {

int CountAccepted(std::span<const int32_t> target_ids, std::span<const int32_t> draft_ids) {
  const size_t size = std::min(target_ids.size(), draft_ids.size());
  size_t i = 0;
  while (i < size && target_ids[i] == draft_ids[i]) ++i;
  return static_cast<int>(i);
}

void VerifyDraft(const VerifySpan& span, int vocab_size, SamplingScratch& scratch, VerifiedSpan* out) {
  out->status = RowStatus::kOk;
  out->num_accepted = 0;
  out->tokens.clear();
  for (size_t j = 0; j <= span.draft_ids.size(); ++j) {
    SamplingRow row = span.row;
    row.position += static_cast<uint32_t>(j);
    row.extra_tokens = span.draft_ids.first(j);
    if (static_cast<int64_t>(j) >= span.num_masked_rows) row.masked_ids = {};
    if (span.allowed_tokens_of_row != nullptr) row.allowed_tokens = span.allowed_tokens_of_row[j];
    const float* const logits = span.logits + static_cast<int64_t>(j) * span.logits_stride;

    const bool has_draft = j < span.draft_ids.size() && span.draft_ids[j] >= 0 && span.draft_ids[j] < vocab_size;
    RejectionOutcome outcome;
    if (has_draft && span.rule == AcceptanceRule::kRejection) {
      outcome = AcceptOrResample(row, logits, vocab_size, span.draft_ids[j], scratch);
    } else {
      outcome.token = SampleRow(row, logits, vocab_size, scratch);
      outcome.accepted = has_draft && outcome.token.token_id == span.draft_ids[j];
    }
    if (outcome.token.status != RowStatus::kOk) {
      out->status = outcome.token.status;
      return;
    }
    out->tokens.push_back(outcome.token);
    if (!outcome.accepted) return;
    ++out->num_accepted;
  }
}

KernelError VerifyDrafts(std::span<const VerifySpan> spans, int vocab_size, std::span<VerifiedSpan> results,
                         ThreadPool& pool, std::vector<SamplingScratch>& scratch) {
  if (results.size() != spans.size() || vocab_size < 1 || vocab_size > kMaxVocabSize) return KernelError::kInvalidShape;
  for (const VerifySpan& span : spans) {
    if (span.logits == nullptr) return KernelError::kNullPointer;
    if (!span.draft_ids.empty() && span.logits_stride < vocab_size) return KernelError::kInvalidShape;
  }
  if (scratch.size() < static_cast<size_t>(pool.num_threads())) {
    scratch.resize(static_cast<size_t>(pool.num_threads()));
  }
  pool.ParallelFor(static_cast<int64_t>(spans.size()), [&](int64_t i, int thread_index) {
    VerifyDraft(spans[static_cast<size_t>(i)], vocab_size, scratch[static_cast<size_t>(thread_index)],
                &results[static_cast<size_t>(i)]);
  });
  return KernelError::kOk;
}

}  // namespace outrider::kernels
