// What the router counts, one verb an event.
//
//   requests a second      sum(rate(outrider_requests_total[1m]))
//   share that failed      sum(rate(outrider_requests_total{outcome!~"ok|cancelled"}[5m])) /
//   sum(rate(outrider_requests_total[5m])) p99 to first token     histogram_quantile(0.99, sum by (le)
//   (rate(outrider_time_to_first_token_seconds_bucket[5m])))
//
// Thread safety: all methods, from any thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "router/cluster_snapshot.h"  // GroupUsage, StaleReason

namespace outrider::router {

class RouterMetrics {
 public:
  explicit RouterMetrics(MetricsRegistry& registry);

  // A Generate call ended as `code`, so long after it came.
  void RequestEnded(absl::StatusCode code, Duration total);
  // An attempt left the queue after so long.
  void RequestDispatched(Duration queued, int64_t num_prompt_tokens);
  void FirstToken(Duration since_arrival);
  // `num_tokens` of a lane came `gap` after those before.
  void MoreTokens(Duration gap, int num_tokens);
  void OutputTokens(int num_tokens) { output_tokens_.Add(num_tokens); }
  void AttemptLost() { attempts_lost_.Add(); }
  void AttemptReplayed() { attempts_replayed_.Add(); }
  void StreamCut() { streams_cut_.Add(); }
  void AttemptHandedOver() { attempts_handed_over_.Add(); }
  void RequestsQuarantined(int64_t num_requests) { requests_quarantined_.Add(static_cast<double>(num_requests)); }
  // Something a group said was not taken.
  void StaleEvents(StaleReason reason, int num_events) { stale_events_.at(reason).Add(num_events); }
  void RequestLogLineDropped() { request_log_lines_dropped_.Add(); }
  void HeartbeatRefused() { heartbeats_refused_.Add(); }
  // The state as of now.
  void SetQueue(int num_requests, int64_t num_tokens);
  void SetRunning(int num_requests) { requests_running_.Set(num_requests); }
  void SetCluster(int num_groups, int num_groups_serving, int num_draft_workers);
  // What a group's heartbeat told. Series are one a group that was ever registered.
  void GroupReported(const std::string& group_id, const GroupUsage& usage);

 private:
  MetricsRegistry& registry_;
  std::map<absl::StatusCode, Counter> requests_;
  Counter other_requests_;
  Histogram request_seconds_;
  Histogram queue_seconds_;
  Histogram first_token_seconds_;
  Histogram inter_token_seconds_;
  Counter prompt_tokens_;
  Counter output_tokens_;
  Counter attempts_lost_;
  Counter attempts_replayed_;
  Counter streams_cut_;
  Counter attempts_handed_over_;
  Counter requests_quarantined_;
  std::map<StaleReason, Counter> stale_events_;
  Counter request_log_lines_dropped_;
  Counter heartbeats_refused_;
  Gauge requests_waiting_;
  Gauge tokens_waiting_;
  Gauge requests_running_;
  Gauge groups_;
  Gauge groups_serving_;
  Gauge draft_workers_;
};

}  // namespace outrider::router
