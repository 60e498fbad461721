#include "worker/engine/draft_sequence.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"

namespace outrider {

DraftSequence::DraftSequence(Start start)
    : epoch_(start.epoch),
      num_prompt_tokens_(static_cast<int>(start.prompt.size())),
      max_model_len_(start.max_model_len),
      params_(std::move(start.params)),
      committed_(std::move(start.prompt)) {
  CHECK(!committed_.empty());
  committed_.insert(committed_.end(), start.output.begin(), start.output.end());
  CHECK(static_cast<int>(committed_.size()) <= max_model_len_);
}

DraftSequence::CommitOutcome DraftSequence::Commit(int first_position, absl::Span<const TokenId> ids) {
  const int num_committed = static_cast<int>(committed_.size());
  if (first_position < 0 || first_position > num_committed) return CommitOutcome::kGap;
  const int num_known = std::min<int>(num_committed - first_position, static_cast<int>(ids.size()));
  if (!std::equal(ids.begin(), ids.begin() + num_known, committed_.begin() + first_position)) {
    return CommitOutcome::kContradiction;
  }
  ids.remove_prefix(num_known);
  if (static_cast<int>(ids.size()) > max_model_len_ - num_committed) return CommitOutcome::kTooLong;
  wants_draft_ = false;

  const auto agreed_end = std::mismatch(ids.begin(), ids.end(), draft_.begin(), draft_.end()).first;
  const int num_agreed = static_cast<int>(agreed_end - ids.begin());
  committed_.insert(committed_.end(), ids.begin(), ids.end());
  if (num_agreed == static_cast<int>(ids.size())) {
    draft_.erase(draft_.begin(), draft_.begin() + num_agreed);
    // A mirror that has ended does not go on, even if the target did.
    if (draft_ended_ && draft_.empty() && num_agreed > 0) {
      draft_ended_ = false;
      needs_start_ = true;
    }
  } else {
    draft_.clear();
    draft_ended_ = false;
    needs_start_ = true;
    num_computed_ = std::min(num_computed_, num_committed + num_agreed);
  }
  return CommitOutcome::kTaken;
}

void DraftSequence::WantDraft(int lookahead) {
  wants_draft_ = lookahead > 0;
  ahead_ = false;
  lookahead_ = std::max(0, lookahead);
}

void DraftSequence::DraftAhead() {
  CHECK(!wants_draft_);
  wants_draft_ = ahead_ = true;
  lookahead_ = 2 * lookahead_ + 1;
}

int DraftSequence::LongestDraft() const {
  const int num_committed = static_cast<int>(committed_.size());
  const int num_output = num_committed - num_prompt_tokens_;
  return std::max(0, std::min({lookahead_, max_model_len_ - num_committed, params_.max_tokens - num_output}));
}

bool DraftSequence::draft_is_ready() const {
  return wants_draft_ && (draft_ended_ || static_cast<int>(draft_.size()) >= LongestDraft());
}

int DraftSequence::num_tokens_to_compute() const {
  return wants_draft_ && !draft_is_ready() ? num_tokens() - num_computed_ : 0;
}

SequenceStart DraftSequence::StartMirror(SequenceId mirror) {
  CHECK(needs_start_ && draft_.empty());
  needs_start_ = false;
  mirror_ = mirror;
  const auto output_begin = committed_.begin() + num_prompt_tokens_;
  return {.sequence = mirror,
          .prompt = std::vector<TokenId>(committed_.begin(), output_begin),
          .output = std::vector<TokenId>(output_begin, committed_.end()),
          .params = params_};
}

void DraftSequence::Computed(int num_tokens, TokenId drafted, bool ended) {
  CHECK(num_tokens <= this->num_tokens() - num_computed_);
  num_computed_ += num_tokens;
  if (drafted < 0) return;
  CHECK(num_computed_ == this->num_tokens());
  draft_.push_back(drafted);
  draft_ended_ = ended;
}

DraftPath DraftSequence::TakeDraft() {
  CHECK(draft_is_ready());
  wants_draft_ = false;
  const int length = std::min<int>(static_cast<int>(draft_.size()), LongestDraft());
  return {.base_position = static_cast<int>(committed_.size()),
          .tokens = std::vector<TokenId>(draft_.begin(), draft_.begin() + length)};
}

void DraftSequence::DropKv() {
  num_computed_ = 0;
  draft_.clear();
  draft_ended_ = false;
  wants_draft_ = false;
  mirror_ = SequenceId();
  needs_start_ = true;
}

}  // namespace outrider
