// DraftSource guesses how sequences go on. It is told what is committed and offers proposals; it may be slow, wrong,
// hostile or gone at any time, and nothing it does can change a sequence's tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/trace_context.h"
#include "worker/sequence/sampling_params.h"
#include "worker/step/step_plan.h"

namespace outrider {

// Thread safety: all calls come from the engine's thread, and none may block. A source that hears from a peer on other
// threads synchronises inside, and wakes the engine by means given to it when it was made.
class DraftSource {
 public:
  // Spans live for the call only.
  struct Opening {
    SequenceId sequence;
    uint32_t epoch = 0;
    absl::Span<const TokenId> prompt;
    absl::Span<const TokenId> output;  // committed so far
    const SamplingParams* params = nullptr;
    int lookahead = 0;                     // draft tokens wanted now; 0: only take note
    absl::Span<const TokenId> prediction;  // what the output may be
    const TraceContext* trace = nullptr;   // null: the sequence belongs to no trace that is recorded
  };
  struct Advance {
    SequenceId sequence;
    uint32_t epoch = 0;
    int first_position = 0;  // absolute, prompt included
    absl::Span<const TokenId> tokens;
    int lookahead = 0;
  };
  struct Proposal {
    SequenceId sequence;
    uint32_t epoch = 0;
    DraftPath path;
    // When it came in, on the engine's clock; unset: when it is taken. An engine in the middle of a step looks late.
    TimePoint arrived = TimePoint::max();
  };

  virtual ~DraftSource() = default;

  // 0 while there is no peer to speak to; otherwise a number that is another one after each loss. What was opened under
  // another number is gone.
  virtual uint64_t connection() const = 0;
  // The peer drafts on after its answer, as if all of it were accepted: it should hear of every commit.
  virtual bool runs_ahead() const { return false; }

  virtual void Open(const Opening& opening) = 0;
  virtual void Commit(const Advance& advance) = 0;
  virtual void Close(SequenceId sequence, uint32_t epoch) = 0;
  // What was said since the last Flush may go out as one message.
  virtual void Flush() = 0;

  // Appends what was proposed since the last call. Nothing in it is validated.
  virtual void TakeProposals(std::vector<Proposal>& proposals) = 0;
};

}  // namespace outrider
