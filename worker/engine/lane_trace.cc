#include "worker/engine/lane_trace.h"

#include <algorithm>
#include <utility>

namespace outrider {
namespace {

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

LaneTrace::LaneTrace(Tracer* tracer, const TraceContext& context, uint32_t lane, int num_prompt_tokens,
                     TimePoint received, const WallClock& wall_clock)
    : tracer_(tracer),
      context_(context),
      lane_(lane),
      num_prompt_tokens_(num_prompt_tokens),
      received_(received),
      wall_clock_(wall_clock),
      decode_id_(tracer->NewSpanId()) {}

TraceSpan& LaneTrace::Add(const char* name, SpanId parent, TimePoint start, TimePoint end) {
  TraceSpan& span = spans_.emplace_back();
  span.trace = context_.trace;
  span.id = tracer_->NewSpanId();
  span.parent = parent;
  span.parent_is_remote = parent == context_.span;
  span.name = name;
  span.start_unix_ns = wall_clock_.UnixNanos(start);
  span.end_unix_ns = wall_clock_.UnixNanos(std::max(start, end));
  return span;
}

void LaneTrace::OnStarted(TimePoint now) {
  if (started_.has_value()) return;
  started_ = now;
  Add("target.queue", context_.span, received_, now).attributes = {{"outrider.choice", int64_t{lane_}}};
}

void LaneTrace::OnTokens(const SequenceUpdate& update, const std::string& source, TimePoint step_began, TimePoint now) {
  if (!first_tokens_.has_value()) {
    first_tokens_ = now;
    return;
  }
  if (update.draft_wait > Duration::zero()) {
    ++num_waits_;
    draft_wait_ += update.draft_wait;
  }
  if (num_rounds_++ >= kMaxRounds) return;
  TraceSpan& round = Add("target.round", decode_id_, step_began - update.draft_wait, now);
  const SpanId id = round.id;
  round.attributes = {{"outrider.round", int64_t{num_rounds_}},
                      {"outrider.output_tokens", static_cast<int64_t>(update.tokens.size())},
                      {"outrider.draft_tokens", int64_t{update.num_draft_tokens}},
                      {"outrider.accepted_tokens", int64_t{update.num_accepted}}};
  if (update.num_draft_tokens > 0) round.attributes.push_back({"outrider.draft_source", source});
  if (update.draft_wait > Duration::zero()) Add("draft.wait", id, step_began - update.draft_wait, step_began);
  if (update.num_draft_tokens > 0) Add("target.verify", id, step_began, now);
}

void LaneTrace::End(const SequenceUpdate& update, const char* outcome, TimePoint now) {
  TraceSpan* last;
  if (!started_.has_value()) {
    last = &Add("target.queue", context_.span, received_, now);
    last->attributes = {{"outrider.choice", int64_t{lane_}}};
  } else {
    last = &Add("target.prefill", context_.span, *started_, first_tokens_.value_or(now));
    last->attributes = {{"outrider.choice", int64_t{lane_}},
                        {"gen_ai.usage.input_tokens", int64_t{num_prompt_tokens_}},
                        {"gen_ai.usage.cache_read.input_tokens", int64_t{update.usage.cached_tokens}}};
  }
  if (first_tokens_.has_value()) {
    last = &Add("target.decode", context_.span, *first_tokens_, now);
    last->id = decode_id_;
    last->attributes = {{"outrider.choice", int64_t{lane_}},
                        {"gen_ai.usage.output_tokens", int64_t{update.usage.output_tokens}},
                        {"outrider.rounds", int64_t{update.usage.rounds}},
                        {"outrider.plain_steps", int64_t{update.usage.plain_steps}},
                        {"outrider.draft_tokens", int64_t{update.usage.draft_tokens}},
                        {"outrider.accepted_tokens", int64_t{update.usage.accepted_tokens}},
                        {"outrider.draft_waits", int64_t{num_waits_}},
                        {"outrider.draft_wait_seconds", Seconds(draft_wait_)},
                        {"outrider.rounds_not_recorded", int64_t{std::max(0, num_rounds_ - kMaxRounds)}}};
  }
  last->attributes.push_back({"outrider.outcome", std::string(outcome)});
  if (!update.error.ok()) {
    last->failed = true;
    last->error = std::string(update.error.message());
    last->attributes.push_back({"error.type", absl::StatusCodeToString(update.error.code())});
  }
  tracer_->Record(std::move(spans_));
  spans_.clear();
}

}  // namespace outrider
