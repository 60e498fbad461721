#include "kernels/sampling/verify_summaries.h"

namespace outrider::kernels {

bool IsSummarizable(const VerifySpan& span) {
  if (span.rule == AcceptanceRule::kRejection && !span.draft_ids.empty()) return false;
  for (size_t j = 0; j <= span.draft_ids.size(); ++j) {
    if (!IsSummarizable(RowOfSpan(span, j))) return false;
  }
  return true;
}

bool VerifyFromSummaries(const VerifySpan& span, const RowSummary* summaries, int vocab_size, SamplingScratch& scratch,
                         VerifiedSpan* out) {
  out->status = RowStatus::kOk;
  out->num_accepted = 0;
  out->tokens.clear();
  for (size_t j = 0; j <= span.draft_ids.size(); ++j) {
    SampledToken token;
    if (!SampleFromSummary(RowOfSpan(span, j), summaries[j], vocab_size, scratch, &token)) return false;
    if (token.status != RowStatus::kOk) {
      out->status = token.status;
      return true;
    }
    out->tokens.push_back(token);
    if (j == span.draft_ids.size() || span.draft_ids[j] != token.token_id) return true;
    ++out->num_accepted;
  }
  return true;
}

}  // namespace outrider::kernels
