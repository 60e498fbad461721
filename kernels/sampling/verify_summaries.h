// VerifyDraft where a span's rows are known by their summaries alone (row_summary.h): what is asked of a step's rows,
// and what follows from the answers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/sampling/row_edits.h"
#include "kernels/sampling/row_summary.h"
#include "kernels/sampling/verify_draft.h"

namespace outrider::kernels {

// Edits of a step's rows altogether: 16 MB.
inline constexpr size_t kStepEditsMax = size_t{1} << 20;

// What to ask of the rows of a step's spans. The device does this in order: raw_requests, of the rows as they are;
// edits; requests. Memory is kept between steps.
//
// Thread safety: none.
class SummaryPlan {
 public:
  // A plan holds edits_max edits at most.
  explicit SummaryPlan(int vocab_size, size_t edits_max = kStepEditsMax)
      : vocab_size_(vocab_size), edits_max_(edits_max) {}

  void Clear();
  // Adds the draft_ids.size() + 1 rows of a span, whose first is that row of logits. False, and nothing added, if they
  // must be seen whole: rejection of drafts, or steps 1 to 3 that are no list of edits or one too many.
  bool Add(const VerifySpan& span, int first_logit_row);

  int num_spans() const { return static_cast<int>(first_rows_.size()); }
  // requests[i] is of row logit_rows[i]; likewise below.
  std::span<const SummaryRequest> requests() const { return requests_; }
  std::span<const int32_t> logit_rows() const { return logit_rows_; }
  std::span<const SummaryRequest> raw_requests() const { return raw_requests_; }
  std::span<const int32_t> raw_logit_rows() const { return raw_logit_rows_; }
  std::span<const EditedRow> edited_rows() const { return edited_rows_; }
  std::span<const RowEdit> edits() const { return edits_; }

  // The device's answers: [requests], [raw_requests], and the logits before each edit.
  struct Answers {
    const RowSummary* summaries = nullptr;
    const RowSummary* raw_summaries = nullptr;
    const float* raw_logits = nullptr;
  };
  // The i-th span that was added: what VerifyDraft gives, to the bit, into *out; false if a row that counts is not
  // decided by its summary, and then *out is not to be used. span.logits is not read. May run on several threads.
  bool Verify(size_t i, const VerifySpan& span, const Answers& answers, SamplingScratch& scratch,
              VerifiedSpan* out) const;

 private:
  bool AddRow(const SamplingRow& row, int logit_row);

  const int vocab_size_;
  const size_t edits_max_;
  RowEditor editor_;
  std::vector<size_t> first_rows_;  // [spans]: into requests_
  std::vector<SummaryRequest> requests_, raw_requests_;
  std::vector<int32_t> logit_rows_, raw_logit_rows_;
  std::vector<int32_t> edited_index_, raw_index_;  // [requests]: into edited_rows_, raw_requests_; -1: none
  std::vector<EditedRow> edited_rows_;
  std::vector<RowEdit> edits_;
};

}  // namespace outrider::kernels
