#include "router/router_metrics.h"

#include <string>

#include "absl/strings/ascii.h"

namespace outrider::router {
namespace {

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// 0.1 ms to 210 s.
std::vector<double> LatencyBuckets() { return ExponentialBuckets(1e-4, 2, 22); }

Counter OutcomeCounter(MetricsRegistry& registry, const std::string& outcome) {
  return registry.AddCounter("requests_total", "Generate calls that ended, by outcome.", {{"outcome", outcome}});
}

}  // namespace

RouterMetrics::RouterMetrics(MetricsRegistry& registry)
    : registry_(registry),
      other_requests_(OutcomeCounter(registry, "other")),
      request_seconds_(registry.AddHistogram("request_seconds", "Time of a Generate call.", LatencyBuckets())),
      queue_seconds_(registry.AddHistogram("request_queue_seconds", "Time in the router's queue.", LatencyBuckets())),
      first_token_seconds_(registry.AddHistogram(
          "time_to_first_token_seconds", "Time from a request's arrival to its first token.", LatencyBuckets())),
      inter_token_seconds_(registry.AddHistogram(
          "inter_token_seconds", "Time a token after those before of its choice, one observation an arrival.",
          LatencyBuckets())),
      prompt_tokens_(registry.AddCounter("prompt_tokens_total", "Prompt tokens of attempts sent to groups.")),
      output_tokens_(registry.AddCounter("output_tokens_total", "Output tokens relayed to clients.")),
      attempts_lost_(registry.AddCounter("attempts_lost_total", "Attempts whose group was lost or gave them up.")),
      attempts_replayed_(registry.AddCounter("attempts_replayed_total", "Attempts made again on a group.")),
      streams_cut_(registry.AddCounter("streams_cut_total", "Streams cut because their client did not read.")),
      attempts_handed_over_(
          registry.AddCounter("attempts_handed_over_total", "Attempts that a draining group handed to another.")),
      requests_quarantined_(registry.AddCounter("requests_quarantined_total",
                                                "Requests refused since they were on two groups that died.")),
      request_log_lines_dropped_(
          registry.AddCounter("request_log_lines_dropped_total", "Lines of the request log that were not written.")),
      heartbeats_refused_(registry.AddCounter("heartbeats_refused_total", "Heartbeats of workers not taken.")),
      requests_waiting_(registry.AddGauge("requests_waiting", "Requests in the router's queue.")),
      tokens_waiting_(registry.AddGauge("request_tokens_waiting", "Tokens of the requests in the router's queue.")),
      requests_running_(registry.AddGauge("requests_running", "Generate calls that are open.")),
      groups_(registry.AddGauge("groups", "Target groups that are registered.")),
      groups_serving_(registry.AddGauge("groups_serving", "Target groups that take requests.")),
      draft_workers_(registry.AddGauge("draft_workers", "Draft workers that are registered.")) {
  for (const auto& [reason, name] : {std::pair{StaleReason::kAttempt, "attempt"},
                                     {StaleReason::kFenced, "fenced"},
                                     {StaleReason::kIncarnation, "incarnation"}}) {
    stale_events_.emplace(
        reason, registry.AddCounter("stale_events_total", "Events of groups that were refused.", {{"reason", name}}));
  }
  for (const absl::StatusCode code :
       {absl::StatusCode::kOk, absl::StatusCode::kCancelled, absl::StatusCode::kInvalidArgument,
        absl::StatusCode::kResourceExhausted, absl::StatusCode::kUnavailable, absl::StatusCode::kDeadlineExceeded,
        absl::StatusCode::kFailedPrecondition, absl::StatusCode::kInternal}) {
    requests_.emplace(code, OutcomeCounter(registry, absl::AsciiStrToLower(absl::StatusCodeToString(code))));
  }
}

void RouterMetrics::RequestEnded(absl::StatusCode code, Duration total) {
  const auto counter = requests_.find(code);
  (counter == requests_.end() ? other_requests_ : counter->second).Add();
  request_seconds_.Observe(Seconds(total));
}

void RouterMetrics::RequestDispatched(Duration queued, int64_t num_prompt_tokens) {
  queue_seconds_.Observe(Seconds(queued));
  prompt_tokens_.Add(static_cast<double>(num_prompt_tokens));
}

void RouterMetrics::FirstToken(Duration since_arrival) { first_token_seconds_.Observe(Seconds(since_arrival)); }

void RouterMetrics::MoreTokens(Duration gap, int num_tokens) {
  inter_token_seconds_.Observe(Seconds(gap) / num_tokens);
}

void RouterMetrics::SetQueue(int num_requests, int64_t num_tokens) {
  requests_waiting_.Set(num_requests);
  tokens_waiting_.Set(static_cast<double>(num_tokens));
}

void RouterMetrics::SetCluster(int num_groups, int num_groups_serving, int num_draft_workers) {
  groups_.Set(num_groups);
  groups_serving_.Set(num_groups_serving);
  draft_workers_.Set(num_draft_workers);
}

void RouterMetrics::GroupReported(const std::string& group_id, const GroupUsage& usage) {
  const MetricLabels labels = {{"group", group_id}};
  registry_.AddGauge("sequences_running", "Sequences a group computes, by its last heartbeat.", labels)
      .Set(usage.sequences_running);
  registry_.AddGauge("sequences_waiting", "Sequences that wait in a group, by its last heartbeat.", labels)
      .Set(usage.sequences_waiting);
  registry_
      .AddGauge("kv_cache_used_ratio", "KV blocks of a group's live sequences, of all, by its last heartbeat.", labels)
      .Set(usage.kv_cache_used_ratio);
}

}  // namespace outrider::router
