#include "router/request_trace.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace outrider::router {
namespace {

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

const char* FinishReasonName(EndReason reason) {
  switch (reason) {
    case EndReason::kEndToken:
    case EndReason::kStopToken:
    case EndReason::kStopString:
      return "stop";
    case EndReason::kLength:
      return "length";
    case EndReason::kCancelled:
      break;
  }
  return "abort";
}

// Whose fault it is not the client's: OpenTelemetry's rule for servers of gRPC.
bool IsServerError(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

}  // namespace

RequestTrace::RequestTrace(Tracer* tracer, const TraceContext& context, bool is_chat, TimePoint arrival,
                           const WallClock& wall_clock)
    : tracer_(tracer),
      context_(context),
      is_chat_(is_chat),
      arrival_(arrival),
      wall_clock_(wall_clock),
      id_(tracer->NewSpanId()) {}

TraceSpan& RequestTrace::Add(const char* name, TimePoint start) {
  TraceSpan& span = spans_.emplace_back();
  span.trace = context_.trace;
  span.id = tracer_->NewSpanId();
  span.parent = id_;
  span.name = name;
  span.start_unix_ns = wall_clock_.UnixNanos(start);
  return span;
}

void RequestTrace::Close(size_t& index, TimePoint now) {
  if (index == kNone) return;
  TraceSpan& span = spans_[index];
  span.end_unix_ns = std::max(span.start_unix_ns, wall_clock_.UnixNanos(now));
  index = kNone;
}

void RequestTrace::OnQueued(TimePoint now) {
  if (queue_ != kNone || num_recorded_attempts_ >= kMaxAttempts) return;
  queue_ = spans_.size();
  Add("router.queue", now);
}

TraceContext RequestTrace::OnAttempt(uint32_t attempt, uint64_t attempt_id, const GroupRef& group, TimePoint now) {
  Close(queue_, now);
  Close(attempt_, now);
  TraceContext told = context_;
  if (num_recorded_attempts_ >= kMaxAttempts) {
    last_attempt_ = kNone;
    told.span = id_;
    return told;
  }
  ++num_recorded_attempts_;
  attempt_ = last_attempt_ = spans_.size();
  TraceSpan& span = Add("router.attempt", now);
  span.kind = SpanKind::kClient;
  span.attributes = {{"outrider.attempt", int64_t{attempt}},
                     {"outrider.attempt_id", static_cast<int64_t>(attempt_id)},
                     {"outrider.group", group.group_id},
                     {"outrider.numerics_id", group.numerics_id}};
  told.span = span.id;
  return told;
}

void RequestTrace::OnAttemptEnded(TimePoint now) { Close(attempt_, now); }

void RequestTrace::OnAttemptFailed(const absl::Status& why, TimePoint now) {
  Close(attempt_, now);
  if (last_attempt_ == kNone) return;
  TraceSpan& span = spans_[last_attempt_];
  span.failed = true;
  span.error = std::string(why.message());
  span.attributes.push_back({"error.type", absl::StatusCodeToString(why.code())});
  last_attempt_ = kNone;
}

void RequestTrace::OnFirstToken(Duration since_arrival) { first_token_ = since_arrival; }

void RequestTrace::OnChoiceEnded(const ClientEvent::End& end) {
  finish_reasons_.push_back(FinishReasonName(end.reason));
  usage_.cached_tokens += end.usage.cached_tokens;
  usage_.rounds += end.usage.rounds;
  usage_.plain_steps += end.usage.plain_steps;
  usage_.draft_tokens += end.usage.draft_tokens;
  usage_.accepted_tokens += end.usage.accepted_tokens;
  timing_ = end.timing;
}

void RequestTrace::AddAttributes(const Summary& summary, TimePoint now, TraceSpan& span) const {
  const auto add = [&span](const char* name, SpanAttribute::Value value) {
    span.attributes.emplace_back(name, std::move(value));
  };
  add("gen_ai.operation.name", std::string(is_chat_ ? "chat" : "text_completion"));
  add("gen_ai.provider.name", std::string("outrider"));
  add("gen_ai.request.id", summary.request_name);
  add("gen_ai.response.id", summary.request_name);
  if (!summary.model.empty()) {
    add("gen_ai.request.model", summary.model);
    add("gen_ai.response.model", summary.model);
  }
  if (summary.request != nullptr) {
    const ResolvedRequest& request = *summary.request;
    add("gen_ai.request.max_tokens", int64_t{request.sampling.max_tokens});
    add("gen_ai.request.temperature", double{request.sampling.temperature});
    add("gen_ai.request.top_p", double{request.sampling.top_p});
    if (request.sampling.top_k > 0) add("gen_ai.request.top_k", int64_t{request.sampling.top_k});
    add("gen_ai.request.seed", static_cast<int64_t>(request.sampling.seed));
    add("gen_ai.request.choice.count", int64_t{request.num_choices});
    add("gen_ai.request.n", int64_t{request.num_choices});
    const int64_t num_prompt_tokens = static_cast<int64_t>(request.prompt_token_ids.size());
    add("gen_ai.usage.input_tokens", num_prompt_tokens);
    add("gen_ai.usage.prompt_tokens", num_prompt_tokens);
    add("gen_ai.usage.output_tokens", summary.num_output_tokens);
    add("gen_ai.usage.completion_tokens", summary.num_output_tokens);
    add("outrider.attempts", int64_t{summary.num_attempts});
  }
  if (!summary.numerics_id.empty()) add("outrider.numerics_id", summary.numerics_id);
  add("gen_ai.latency.e2e", Seconds(now - arrival_));
  if (first_token_ > Duration::zero()) {
    add("gen_ai.latency.time_to_first_token", Seconds(first_token_));
    add("gen_ai.response.time_to_first_chunk", Seconds(first_token_));
  }
  if (!finish_reasons_.empty()) {
    add("gen_ai.response.finish_reasons", finish_reasons_);
    add("gen_ai.usage.cache_read.input_tokens", int64_t{usage_.cached_tokens});
    const double prefill_ms = std::max(0.0, timing_.first_token - timing_.queue);
    add("gen_ai.latency.time_in_queue", timing_.queue / 1000);
    add("gen_ai.latency.time_in_model_prefill", prefill_ms / 1000);
    add("gen_ai.latency.time_in_model_decode", timing_.decode / 1000);
    add("gen_ai.latency.time_in_model_inference", (prefill_ms + timing_.decode) / 1000);
    add("outrider.rounds", int64_t{usage_.rounds});
    add("outrider.plain_steps", int64_t{usage_.plain_steps});
    add("outrider.draft_tokens", int64_t{usage_.draft_tokens});
    add("outrider.accepted_tokens", int64_t{usage_.accepted_tokens});
  }
}

void RequestTrace::End(const Summary& summary, TimePoint now) {
  Close(queue_, now);
  Close(attempt_, now);
  TraceSpan& span = Add("", arrival_);
  span.id = id_;
  span.parent = context_.span;
  span.parent_is_remote = context_.span != 0;
  span.kind = SpanKind::kServer;
  span.name = is_chat_ ? "chat" : "text_completion";
  if (!summary.model.empty()) absl::StrAppend(&span.name, " ", summary.model);
  span.end_unix_ns = std::max(span.start_unix_ns, wall_clock_.UnixNanos(now));
  AddAttributes(summary, now, span);
  if (!summary.status.ok()) {
    span.attributes.push_back({"error.type", absl::StatusCodeToString(summary.status.code())});
    span.failed = IsServerError(summary.status.code());
    if (span.failed) span.error = std::string(summary.status.message());
  }
  tracer_->Record(std::move(spans_));
  spans_.clear();
}

}  // namespace outrider::router
