// RequestTrace is what the router records of one Generate call, if its trace is recorded:
//
//   "chat MODEL", "text_completion MODEL"   the call, from arrival to its end; a child of the client's span if it sent
//   one
//     router.queue      a wait for a group, one before each attempt
//     router.attempt    from the group's being sent the request to its end, loss or hand-over; the group's spans
//                       (worker/engine/lane_trace.h) are its children
//
// Attributes have the names of OpenTelemetry's conventions for generative AI, vLLM's gen_ai.latency.*, and outrider.*
// for what only we have. Never prompts, text or stop strings.
//
// Thread safety: none. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/trace_context.h"
#include "router/cluster_snapshot.h"  // GroupRef
#include "router/generate_relay.h"    // ClientEvent
#include "router/request.h"
#include "tracing/trace_span.h"
#include "tracing/tracer.h"

namespace outrider::router {

class RequestTrace {
 public:
  // Later ones are counted only, so that what is recorded of a call has a bound.
  static constexpr int kMaxAttempts = 8;

  // `tracer` outlives this. The call is a child of `context.span`, which is the client's, unless it is 0.
  RequestTrace(Tracer* tracer, const TraceContext& context, bool is_chat, TimePoint arrival,
               const WallClock& wall_clock);

  // It waits for a group from now on; no effect if it does already.
  void OnQueued(TimePoint now);
  // An attempt is about to be sent. What the group is told: its spans are children of the attempt.
  TraceContext OnAttempt(uint32_t attempt, uint64_t attempt_id, const GroupRef& group, TimePoint now);
  // Nothing more is wanted of it.
  void OnAttemptEnded(TimePoint now);
  // The last attempt ended before its time: it was never sent, the group is gone or drains.
  void OnAttemptFailed(const absl::Status& why, TimePoint now);
  void OnFirstToken(Duration since_arrival);
  void OnChoiceEnded(const ClientEvent::End& end);

  // The end of the call. `request` is null if it was never prepared.
  struct Summary {
    absl::Status status;
    std::string request_name;
    std::string model;
    std::string numerics_id;
    const ResolvedRequest* request = nullptr;
    int64_t num_output_tokens = 0;
    uint32_t num_attempts = 0;
  };
  void End(const Summary& summary, TimePoint now);

 private:
  TraceSpan& Add(const char* name, TimePoint start);
  void Close(size_t& index, TimePoint now);
  void AddAttributes(const Summary& summary, TimePoint now, TraceSpan& span) const;

  static constexpr size_t kNone = ~size_t{0};

  Tracer* const tracer_;
  const TraceContext context_;
  const bool is_chat_;
  const TimePoint arrival_;
  const WallClock wall_clock_;
  const SpanId id_;  // of the call
  std::vector<TraceSpan> spans_;
  int num_recorded_attempts_ = 0;
  size_t queue_ = kNone;         // the open one, in spans_
  size_t attempt_ = kNone;       // the open one
  size_t last_attempt_ = kNone;  // open or not
  Duration first_token_{};       // since the arrival; zero: none yet
  std::vector<std::string> finish_reasons_;
  LaneUsage usage_;     // of all choices
  RelayTiming timing_;  // of the choice that ended last
};

}  // namespace outrider::router
