// DraftSession is the target's view of one sequence's draft at one source: what the source has been told, what it was
// asked, and which of its proposals may be used. PURE.
//
// A draft is a hint from a peer that may be slow, wrong or gone. Nothing here can fail a request: whatever is not
// provably current is dropped and counted.
//
// Invariants:
//   - a path is usable iff it begins with what has been committed since its base position;
//   - the epoch rises only when the sequence is opened anew;
//   - at most one request is unanswered; a source that stays silent is asked again, opened anew, ever more rarely.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "base/clock.h"
#include "base/ids.h"
#include "worker/step/draft_offer.h"
#include "worker/step/step_plan.h"

namespace outrider {

enum class DropReason : uint8_t {
  kUnknownSequence,  // never opened here, or ended
  kStaleEpoch,       // of an earlier opening
  kStalePosition,    // ends at or before what is committed
  kMismatch,         // differs from what is committed
  kOutOfRange,       // an id outside the vocabulary, or a base the source can not know
  kTooLong,          // more tokens than anybody asked for
};
inline constexpr int kNumDropReasons = 6;
// For metric labels: "stale_epoch" and so on.
const char* DropReasonName(DropReason reason);

// Tokens of a path, at most: it may cover a whole round that is under way, its target token, and the round after.
inline constexpr int kMaxPathTokens = 2 * (kMaxLookahead + 1);

class DraftSession {
 public:
  // What to say to the source so that it knows all of num_tokens committed tokens.
  struct Command {
    bool open = false;       // an opening with everything; else an advance
    int first_position = 0;  // of the advance
  };

  bool open() const { return epoch_ != 0 && open_; }
  uint32_t epoch() const { return epoch_; }
  // Nothing is asked that has not been answered or given up.
  bool idle() const { return !asked_at_.has_value(); }
  // The last request was answered: a new one may be waited for.
  bool warm() const { return warm_; }

  // May it be asked now? False while a request is unanswered and not yet given up.
  bool MayAsk(TimePoint now);
  // Notes that the source is told everything up to num_tokens and asked for `lookahead` tokens. REQUIRES: MayAsk(now).
  Command Ask(int num_tokens, int lookahead, TimePoint now);

  // The source forgot everything (connection lost).
  void Lose();

  struct Verdict {
    std::optional<DropReason> dropped;  // empty: usable
    std::optional<Duration> latency;    // it answers the request: from asking to now
    int lookahead = 0;                  // of that request
    int num_new_tokens = 0;             // that came with it
  };
  // Judges a proposal for a sequence with `committed` tokens. A usable one, or an answer without tokens, answers the
  // request; any other of this epoch that stems from the latest position told ends the wait for it.
  Verdict Judge(uint32_t epoch, const DraftPath& path, absl::Span<const TokenId> committed, int vocab_size,
                TimePoint now);

 private:
  // A request is given up after so long, and so much a token that came with it (a draft model reads a prompt at a few
  // hundred tokens a second on a small CPU); doubled each time in a row.
  static constexpr double kPatienceMs = 2000;
  static constexpr double kPatienceMsPerToken = 10;
  static constexpr int kMaxDoublings = 5;

  uint32_t epoch_ = 0;
  bool open_ = false;
  bool warm_ = false;
  int num_told_ = 0;
  std::optional<TimePoint> asked_at_;
  int asked_lookahead_ = 0;
  int asked_new_tokens_ = 0;
  int num_given_up_ = 0;
};

}  // namespace outrider
