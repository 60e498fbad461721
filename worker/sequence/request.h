// Request: one Generate call as a target group sees it, all its choices together.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/trace_context.h"
#include "worker/sequence/sampling_params.h"

namespace outrider {

// One choice. `output` was delivered by an earlier attempt: counted, never generated again.
struct RequestLane {
  uint32_t lane = 0;
  std::vector<TokenId> output;
};

struct Request {
  static constexpr int kAutoLookahead = -1;
  static constexpr int kPriorityMax = 16;

  std::vector<TokenId> prompt;
  SamplingParams params;           // of every lane, but for `lane`
  std::vector<RequestLane> lanes;  // at least one; lanes differ
  TimePoint deadline = TimePoint::max();
  bool draft = true;                  // may be drafted for
  int lookahead = kAutoLookahead;     // draft tokens a round: auto or 0..kMaxLookahead
  int priority = 0;                   // -kPriorityMax..kPriorityMax; higher is computed first and preempted last
  uint64_t prefix_salt = 0;           // prefixes are shared only between requests of equal salt
  std::optional<TraceContext> trace;  // if its trace is recorded
  std::vector<TokenId> prediction;    // what the output may be: drafted from, never trusted
};

}  // namespace outrider
