// From a span's logits to its accepted draft tokens and its target token.
//
// Row j of a span sees the draft tokens before it as if they were committed. Coupled acceptance: the target chooses its
// own token at each position; draft token j is accepted iff it equals the target's at its position. So what is
// committed does not depend on the draft, only how much of it a round commits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/sampling/sample_row.h"

namespace outrider::kernels {

// Length of the longest common prefix of target_ids and draft_ids; target_ids[that] is the target token.
// REQUIRES: target_ids.size() > draft_ids.size(), or the span is cut where the target stops.
int CountAccepted(std::span<const int32_t> target_ids, std::span<const int32_t> draft_ids);

enum class AcceptanceRule : uint8_t { kCoupled, kRejection };

// One span that samples: draft_ids.size() + 1 rows of logits, the first for the position after the committed tokens.
struct VerifySpan {
  // Of the first row. `extra_tokens` must be empty: the span's own draft tokens are added for later rows, which take
  // position + 1, ... Bias and parameters hold for all rows.
  SamplingRow row;
  // masked_ids hold for this many rows from the first on: min_tokens less the output's length, 0 if none are left.
  int num_masked_rows = 0;
  // [draft_ids.size() + 1] masks as SamplingRow::allowed_tokens, one a row; null: row.allowed_tokens for all.
  const uint32_t* const* allowed_tokens_of_row = nullptr;
  const float* logits = nullptr;  // [draft_ids.size() + 1, vocab_size]; rows logits_stride floats apart
  int64_t logits_stride = 0;
  std::span<const int32_t> draft_ids;
  AcceptanceRule rule = AcceptanceRule::kCoupled;
};

// Row j of a span, as if the draft tokens before it were committed. Points into the span.
SamplingRow RowOfSpan(const VerifySpan& span, size_t j);

struct VerifiedSpan {
  RowStatus status = RowStatus::kOk;  // of the first row that failed; tokens before it stand
  int num_accepted = 0;
  // The accepted draft tokens, then the target token (none if status is not kOk).
  std::vector<SampledToken> tokens;
};

// Rows after the first that differs are not looked at. REQUIRES: as SampleRow. Draft ids outside [0, vocab_size) are
// never accepted.
void VerifyDraft(const VerifySpan& span, int vocab_size, SamplingScratch& scratch, VerifiedSpan* out);

// Every span, in parallel; with fewer spans than threads, every row. The same results as VerifyDraft. results.size() ==
// spans.size(). kInvalidShape: vocab_size or sizes out of range.
KernelError VerifyDrafts(std::span<const VerifySpan> spans, int vocab_size, std::span<VerifiedSpan> results,
                         ThreadPool& pool, std::vector<SamplingScratch>& scratch);

}  // namespace outrider::kernels
