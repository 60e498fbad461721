// LaneTrace is what a target group records of one choice of a request, if its trace is recorded: the wait for the first
// step, the steps of its prompt, and those of its output.
//
//   target.queue     from receipt to the first step
//   target.prefill   from there to the first output tokens
//   target.decode    from there to the end; counts of all rounds
//     target.round   a step that gave tokens; of the first kMaxRounds steps
//       draft.wait     how long the row waited for its draft, if it did
//       target.verify  the step itself, if there were draft tokens in it
//
// All are handed over at the end, together: the engine's loop pays for it once a choice.
//
// Thread safety: none. Owned by the engine's thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/trace_context.h"
#include "tracing/trace_span.h"
#include "tracing/tracer.h"
#include "worker/sequence/sequence_update.h"

namespace outrider {

class LaneTrace {
 public:
  // Rounds beyond are counted only: what is recorded of a choice has a bound.
  static constexpr int kMaxRounds = 16;

  // `tracer` outlives this. What is recorded are children of `context.span`.
  LaneTrace(Tracer* tracer, const TraceContext& context, uint32_t lane, int num_prompt_tokens, TimePoint received,
            const WallClock& wall_clock);

  // Its first step is planned.
  void OnStarted(TimePoint now);
  // `update` has tokens, of a step that was given to the backend at `step_began`; `source` is whose draft was verified,
  // if one was.
  void OnTokens(const SequenceUpdate& update, const std::string& source, TimePoint step_began, TimePoint now);
  // The end, as `update` says, is `outcome`.
  void End(const SequenceUpdate& update, const char* outcome, TimePoint now);

 private:
  TraceSpan& Add(const char* name, SpanId parent, TimePoint start, TimePoint end);

  Tracer* const tracer_;
  const TraceContext context_;
  const uint32_t lane_;
  const int num_prompt_tokens_;
  const TimePoint received_;
  const WallClock wall_clock_;
  const SpanId decode_id_;
  std::optional<TimePoint> started_;
  std::optional<TimePoint> first_tokens_;
  int num_rounds_ = 0;  // steps that gave tokens after the first
  int num_waits_ = 0;
  Duration draft_wait_{};
  std::vector<TraceSpan> spans_;
};

}  // namespace outrider
