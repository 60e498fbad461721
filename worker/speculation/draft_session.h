// DraftSession is the target's view of one sequence's draft at one source: what the source has been told, what it was
// asked, and which of its proposals may be used. PURE.
//
// A draft is a hint from a peer that may be slow, wrong or gone. Nothing here can fail a request: whatever is not
// provably current is dropped and counted.
//
// Invariants:
//   - a path is usable iff it begins with what has been committed since its base position;
//   - the epoch rises only when the sequence is opened anew;
//   - at most one request is unanswered; a source that stays silent is opened anew, ever more rarely.
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
  bool open() const { return open_; }
  uint32_t epoch() const { return epoch_; }
  // It answered the last request that was answered or given up: it is worth waiting for.
  bool warm() const { return warm_; }
  // Committed tokens it has been told.
  int num_told() const { return num_told_; }

  // Whether it may be asked now: not while a request is unanswered. Gives that up when its time has come.
  bool MayAsk(TimePoint now);

  // What to say so that the source knows all committed tokens.
  struct Command {
    bool open = false;       // an opening with everything; else an advance
    int first_position = 0;  // of the advance
  };
  // Notes that it is told everything up to num_tokens and asked for `lookahead` tokens. REQUIRES: MayAsk(now).
  Command Ask(int num_tokens, int lookahead, TimePoint now);

  // The source forgot everything: its connection was lost.
  void Lose();

  struct Verdict {
    std::optional<DropReason> dropped;  // empty: usable, or an answer without tokens
    bool answers = false;               // the request; nothing more will come of it
    Duration latency{};                 // of the answer: from asking to arrival
    int lookahead = 0;                  // that was asked
    int num_new_tokens = 0;             // that came with the request
  };
  // Judges a proposal that arrived then, for a sequence whose committed tokens are `committed`.
  Verdict Judge(uint32_t epoch, const DraftPath& path, absl::Span<const TokenId> committed, int vocab_size,
                TimePoint arrived);

 private:
  // A request is given up after so long, and so much a token that came with it (a draft model reads a prompt at a few
  // hundred tokens a second on a small CPU); doubled each time in a row.
  static constexpr double kPatienceMs = 2000;
  static constexpr double kPatienceMsPerToken = 10;
  static constexpr int kMaxDoublings = 5;
  // After so long a silence the source may have forgotten the sequence (lease_ms): it is opened anew. Half its default.
  static constexpr double kSilenceMsMax = 30000;

  uint32_t epoch_ = 0;
  bool open_ = false;
  bool warm_ = false;
  int num_told_ = 0;
  TimePoint told_at_{};
  bool asked_ = false;  // and not answered; at told_at_
  int asked_lookahead_ = 0;
  int asked_new_tokens_ = 0;
  int num_given_up_ = 0;  // in a row
};

}  // namespace outrider
