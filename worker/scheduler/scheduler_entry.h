// What the scheduler keeps of a sequence and of a step that is out. Of scheduler*.cc alone.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "worker/scheduler/scheduler.h"

namespace outrider {

struct Scheduler::Entry {
  Entry(SequenceId id, const Request& request, const RequestLane& lane, TimePoint now)
      : sequence(id, request, lane),
        salt(request.prefix_salt),
        deadline(request.deadline),
        submitted(now),
        priority(request.priority),
        rank(now - request.priority * kPriorityAgeing) {
    usage.prompt_tokens = sequence.num_prompt_tokens();
  }

  SequenceId id() const { return sequence.id(); }
  bool PredecessorSamples() const { return num_in_flight > 0 && last_samples; }
  // Committed tokens not yet in a plan; the last one counts though it is known only once the predecessor ended.
  int NumTokensToPlan() const { return PredecessorSamples() ? 1 : sequence.num_tokens() - num_planned_tokens; }

  bool WantsPromptLogprobs() const {
    return sequence.params().num_prompt_logprobs >= 0 && next_prompt_logprob < sequence.num_prompt_tokens();
  }

  Sequence sequence;
  BlockTable table;
  const uint64_t salt;
  const TimePoint deadline;
  const TimePoint submitted;
  const int priority;
  const TimePoint rank;   // arrival, less what the priority is worth: everyone ages alike, so it never changes
  SequenceId first_lane;  // of its request; ids of lanes follow one another
  bool running = false;
  bool mirrored = false;    // ranks know it
  int incarnation = 0;      // rises with each preemption: results of spans planned before no longer move its KV
  int num_told_blocks = 0;  // table entries that ranks know

  // Spans planned and not applied, of this incarnation, and what the last one planned is.
  int num_in_flight = 0;
  int num_planned_tokens = 0;  // computed, or in a span that was planned
  StepId last_step;
  bool last_samples = false;
  int last_lookahead = 0;
  // Spans of earlier incarnations that are still out: until they are applied its tokens are not all known.
  int num_stale_in_flight = 0;

  DraftGrant grant;
  bool grant_used = false;  // a round was planned with it
  std::vector<DraftOffer> offers;
  std::optional<TimePoint> waiting_since;  // for a draft

  Usage usage;
  std::optional<Duration> queue_time;  // since it was planned first
  int next_prompt_logprob = 1;         // the first prompt position whose logprobs were not told yet

  // Of the step being planned.
  int step_tokens = 0;
  int step_lookahead = 0;
};

struct Scheduler::Outstanding {
  StepPlan plan;
  struct SpanNote {
    struct Path {
      int source = 0;
      bool predicted = false;  // from the request's prediction
    };
    int incarnation = 0;
    std::vector<Path> paths;  // of the span's paths
    Duration draft_wait{};
  };
  std::vector<SpanNote> notes;  // a span each
  TimePoint planned;
  bool decode_only = true;

  void Clear(StepId step, TimePoint now) {
    plan.step = step;
    plan.starts.clear();
    plan.ends.clear();
    plan.spans.clear();
    notes.clear();
    planned = now;
    decode_only = true;
  }
};

}  // namespace outrider
