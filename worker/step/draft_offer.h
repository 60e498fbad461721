// How drafts reach the scheduler: a grant says how many draft tokens a sequence's next step may verify and how long it
// waits for them; an offer brings them. Both are hints: without a usable offer in time the step goes without a draft.
#pragma once

#include "base/clock.h"
#include "base/ids.h"
#include "worker/step/step_plan.h"

namespace outrider {

// Draft tokens a round, at most, whoever asks.
inline constexpr int kMaxLookahead = 32;

struct DraftGrant {
  SequenceId sequence;
  int lookahead = 0;       // [0, kMaxLookahead]; 0: none
  TimePoint wait_until{};  // the sequence is not planned before then unless a usable draft is there; past: no wait
  TimePoint expected{};    // when the draft is thought to be there; zero: not known
  // A draft worker drafts for the sequence or reads so that it can: it is asked after each result, and its answer is of
  // use only if no further step was planned by then.
  bool by_worker = false;
};

struct DraftOffer {
  SequenceId sequence;
  int source = 0;          // whose it is, for the account of acceptance
  DraftPath path;          // no tokens: there will be no draft, do not wait
  bool predicted = false;  // from the request's prediction
};

}  // namespace outrider
