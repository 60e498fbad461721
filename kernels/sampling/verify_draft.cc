#include "kernels/sampling/verify_draft.h"

#include <algorithm>
#include <atomic>

namespace outrider::kernels {

int CountAccepted(std::span<const int32_t> target_ids, std::span<const int32_t> draft_ids) {
  const size_t size = std::min(target_ids.size(), draft_ids.size());
  size_t i = 0;
  while (i < size && target_ids[i] == draft_ids[i]) ++i;
  return static_cast<int>(i);
}

SamplingRow RowOfSpan(const VerifySpan& span, size_t j) {
  SamplingRow row = span.row;
  row.position += static_cast<uint32_t>(j);
  row.extra_tokens = span.draft_ids.first(j);
  if (static_cast<int64_t>(j) >= span.num_masked_rows) row.masked_ids = {};
  if (span.allowed_tokens_of_row != nullptr) row.allowed_tokens = span.allowed_tokens_of_row[j];
  return row;
}

namespace {

size_t NumRows(const VerifySpan& span) { return span.draft_ids.size() + 1; }

RejectionOutcome VerifyRow(const VerifySpan& span, size_t j, int vocab_size, SamplingScratch& scratch) {
  const SamplingRow row = RowOfSpan(span, j);
  const float* const logits = span.logits + static_cast<int64_t>(j) * span.logits_stride;

  const bool has_draft = j < span.draft_ids.size() && span.draft_ids[j] >= 0 && span.draft_ids[j] < vocab_size;
  if (has_draft && span.rule == AcceptanceRule::kRejection) {
    return AcceptOrResample(row, logits, vocab_size, span.draft_ids[j], scratch);
  }
  RejectionOutcome outcome;
  outcome.token = SampleRow(row, logits, vocab_size, scratch);
  outcome.accepted = has_draft && outcome.token.token_id == span.draft_ids[j];
  return outcome;
}

// Adds a row's outcome; false when the span ends with it.
bool Append(const RejectionOutcome& outcome, VerifiedSpan* out) {
  if (outcome.token.status != RowStatus::kOk) {
    out->status = outcome.token.status;
    return false;
  }
  out->tokens.push_back(outcome.token);
  out->num_accepted += outcome.accepted;
  return outcome.accepted;
}

void Clear(VerifiedSpan* out) {
  out->status = RowStatus::kOk;
  out->num_accepted = 0;
  out->tokens.clear();
}

// All rows at once, for few spans: a row needs nothing of the rows before it but their drafts, so rows past the first
// that differs are only wasted time, of threads that had none to spend.
void VerifyRowsInParallel(std::span<const VerifySpan> spans, int vocab_size, std::span<VerifiedSpan> results,
                          ThreadPool& pool, std::vector<SamplingScratch>& scratch) {
  struct RowTask {
    size_t span, row;
  };
  std::vector<RowTask> tasks;
  for (size_t i = 0; i < spans.size(); ++i) {
    for (size_t j = 0; j < NumRows(spans[i]); ++j) tasks.push_back({i, j});
  }
  std::vector<RejectionOutcome> outcomes(tasks.size());
  // The first row of each span that is known to end it.
  std::vector<std::atomic<size_t>> last_rows(spans.size());
  for (size_t i = 0; i < spans.size(); ++i) last_rows[i].store(NumRows(spans[i]), std::memory_order_relaxed);
  pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t t, int thread_index) {
    const RowTask task = tasks[static_cast<size_t>(t)];
    std::atomic<size_t>& last_row = last_rows[task.span];
    if (task.row > last_row.load(std::memory_order_relaxed)) return;
    RejectionOutcome& outcome = outcomes[static_cast<size_t>(t)];
    outcome = VerifyRow(spans[task.span], task.row, vocab_size, scratch[static_cast<size_t>(thread_index)]);
    if (outcome.accepted) return;
    size_t known = last_row.load(std::memory_order_relaxed);
    while (task.row < known && !last_row.compare_exchange_weak(known, task.row, std::memory_order_relaxed)) {
    }
  });
  size_t t = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    const size_t first = t;
    t += NumRows(spans[i]);
    Clear(&results[i]);
    for (size_t j = 0; j < NumRows(spans[i]) && Append(outcomes[first + j], &results[i]); ++j) {
    }
  }
}

}  // namespace

void VerifyDraft(const VerifySpan& span, int vocab_size, SamplingScratch& scratch, VerifiedSpan* out) {
  Clear(out);
  for (size_t j = 0; j < NumRows(span) && Append(VerifyRow(span, j, vocab_size, scratch), out); ++j) {
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
  if (static_cast<int>(spans.size()) < pool.num_threads()) {
    VerifyRowsInParallel(spans, vocab_size, results, pool, scratch);
    return KernelError::kOk;
  }
  pool.ParallelFor(static_cast<int64_t>(spans.size()), [&](int64_t i, int thread_index) {
    VerifyDraft(spans[static_cast<size_t>(i)], vocab_size, scratch[static_cast<size_t>(thread_index)],
                &results[static_cast<size_t>(i)]);
  });
  return KernelError::kOk;
}

}  // namespace outrider::kernels
