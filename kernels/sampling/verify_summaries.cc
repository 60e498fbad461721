#include "kernels/sampling/verify_summaries.h"

#include "kernels/sampling/row_processing.h"

namespace outrider::kernels {

void SummaryPlan::Clear() {
  first_rows_.clear();
  requests_.clear();
  raw_requests_.clear();
  logit_rows_.clear();
  raw_logit_rows_.clear();
  edited_index_.clear();
  raw_index_.clear();
  edited_rows_.clear();
  edits_.clear();
}

bool SummaryPlan::Add(const VerifySpan& span, int first_logit_row) {
  if (span.rule == AcceptanceRule::kRejection && !span.draft_ids.empty()) return false;
  const size_t num_rows = requests_.size(), num_raw = raw_requests_.size();
  const size_t num_edited = edited_rows_.size(), num_edits = edits_.size();
  for (size_t j = 0; j <= span.draft_ids.size(); ++j) {
    if (AddRow(RowOfSpan(span, j), first_logit_row + static_cast<int>(j))) continue;
    requests_.resize(num_rows);
    logit_rows_.resize(num_rows);
    edited_index_.resize(num_rows);
    raw_index_.resize(num_rows);
    raw_requests_.resize(num_raw);
    raw_logit_rows_.resize(num_raw);
    edited_rows_.resize(num_edited);
    edits_.resize(num_edits);
    return false;
  }
  first_rows_.push_back(num_rows);
  return true;
}

bool SummaryPlan::AddRow(const SamplingRow& row, int logit_row) {
  int32_t edited = -1, raw = -1;
  if (!IsSummarizable(row)) {
    const size_t first = edits_.size();
    if (!editor_.Append(row, vocab_size_, &edits_) || edits_.size() > edits_max_) return false;
    const size_t num_edits = edits_.size() - first;
    if (num_edits > 0) {
      edited = static_cast<int32_t>(edited_rows_.size());
      edited_rows_.push_back({.logits_row = logit_row,
                              .first_edit = static_cast<int32_t>(first),
                              .num_edits = static_cast<int32_t>(num_edits),
                              .penalties = PenaltiesOf(row)});
      if (row.num_logprobs >= 0) {
        raw = static_cast<int32_t>(raw_requests_.size());
        raw_requests_.push_back(RequestOf(RatingOf(row), vocab_size_));
        raw_logit_rows_.push_back(logit_row);
      }
    }
  }
  requests_.push_back(RequestOf(edited >= 0 ? ChoiceOf(row) : row, vocab_size_));
  logit_rows_.push_back(logit_row);
  edited_index_.push_back(edited);
  raw_index_.push_back(raw);
  return true;
}

bool SummaryPlan::Verify(size_t i, const VerifySpan& span, const Answers& answers, SamplingScratch& scratch,
                         VerifiedSpan* out) const {
  out->status = RowStatus::kOk;
  out->num_accepted = 0;
  out->tokens.clear();
  for (size_t j = 0; j <= span.draft_ids.size(); ++j) {
    const size_t n = first_rows_[i] + j;
    SummarizedRow row{.summary = answers.summaries + n};
    if (edited_index_[n] >= 0) {
      const EditedRow& edited = edited_rows_[static_cast<size_t>(edited_index_[n])];
      row.edits = edits().subspan(static_cast<size_t>(edited.first_edit), static_cast<size_t>(edited.num_edits));
      row.raw_logits = answers.raw_logits + edited.first_edit;
      if (raw_index_[n] >= 0) row.raw = answers.raw_summaries + raw_index_[n];
    }
    SampledToken token;
    if (!SampleFromSummary(RowOfSpan(span, j), row, vocab_size_, scratch, &token)) return false;
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
