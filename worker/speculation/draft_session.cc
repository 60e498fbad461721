#include "worker/speculation/draft_session.h"

#include <algorithm>

#include "base/status_macros.h"

namespace outrider {

const char* DropReasonName(DropReason reason) {
  switch (reason) {
    case DropReason::kUnknownSequence:
      return "unknown_sequence";
    case DropReason::kStaleEpoch:
      return "stale_epoch";
    case DropReason::kStalePosition:
      return "stale_position";
    case DropReason::kMismatch:
      return "mismatch";
    case DropReason::kOutOfRange:
      return "out_of_range";
    case DropReason::kTooLong:
      return "too_long";
  }
  return "unknown";
}

bool DraftSession::MayAsk(TimePoint now) {
  if (!asked_) return true;
  const double patience_ms =
      (kPatienceMs + kPatienceMsPerToken * asked_new_tokens_) * (1 << std::min(num_given_up_, kMaxDoublings));
  if (ToMillis(now - told_at_) < patience_ms) return false;
  asked_ = warm_ = open_ = false;
  ++num_given_up_;
  return true;
}

DraftSession::Command DraftSession::Ask(int num_tokens, int lookahead, TimePoint now) {
  CHECK(!asked_ && lookahead > 0 && num_tokens >= num_told_);
  if (open_ && ToMillis(now - told_at_) > kSilenceMsMax) open_ = false;
  const Command command{.open = !open_, .first_position = open_ ? num_told_ : 0};
  if (command.open) ++epoch_;
  open_ = asked_ = true;
  asked_lookahead_ = lookahead;
  asked_new_tokens_ = num_tokens - command.first_position;
  num_told_ = num_tokens;
  told_at_ = now;
  return command;
}

void DraftSession::Lose() {
  open_ = warm_ = asked_ = false;
  num_told_ = 0;
  num_given_up_ = 0;
}

DraftSession::Verdict DraftSession::Judge(uint32_t epoch, const DraftPath& path, absl::Span<const TokenId> committed,
                                          int vocab_size, TimePoint arrived) {
  Verdict verdict;
  if (!open_ || epoch != epoch_) {
    verdict.dropped = DropReason::kStaleEpoch;
    return verdict;
  }
  // Whatever is said of the latest position told, good or bad, is the answer.
  if (asked_ && path.base_position == num_told_) {
    verdict.answers = true;
    verdict.latency = std::max(Duration::zero(), arrived - told_at_);
    verdict.lookahead = asked_lookahead_;
    verdict.num_new_tokens = asked_new_tokens_;
    asked_ = false;
    warm_ = true;
    num_given_up_ = 0;
  }
  const auto in_range = [vocab_size](TokenId token) { return token >= 0 && token < vocab_size; };
  if (path.tokens.size() > kMaxPathTokens) {
    verdict.dropped = DropReason::kTooLong;
  } else if (path.base_position < 0 || path.base_position > num_told_ ||
             !std::all_of(path.tokens.begin(), path.tokens.end(), in_range)) {
    verdict.dropped = DropReason::kOutOfRange;
  } else if (path.tokens.empty() && verdict.answers) {
    // It has nothing to say.
  } else if (path.base_position + path.tokens.size() <= committed.size()) {
    verdict.dropped = DropReason::kStalePosition;
  } else if (UsableDraft(path, committed).empty()) {
    verdict.dropped = DropReason::kMismatch;
  }
  return verdict;
}

}  // namespace outrider
