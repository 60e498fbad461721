// VerifyDraft where a span's rows are known by their summaries alone (row_summary.h).
//
// Thread safety: pure functions of their arguments.
#pragma once

#include "kernels/sampling/row_summary.h"
#include "kernels/sampling/verify_draft.h"

namespace outrider::kernels {

// Whether the span may be had from summaries: coupled acceptance (or no draft), rows that steps 1 to 3 leave as they
// are.
bool IsSummarizable(const VerifySpan& span);

// What VerifyDraft gives, to the bit, into *out; false if a row that counts is not decided by its summary, and then
// *out is not to be used. `summaries` [draft_ids.size() + 1], of RequestOf(RowOfSpan(span, j), vocab_size); span.logits
// is not read. REQUIRES: IsSummarizable(span).
bool VerifyFromSummaries(const VerifySpan& span, const RowSummary* summaries, int vocab_size, SamplingScratch& scratch,
                         VerifiedSpan* out);

}  // namespace outrider::kernels
