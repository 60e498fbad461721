// What the router counts, one verb an event.
//
// Names of its own beside those of a group's engine (worker/engine/engine_metrics.h): sums over a page that shows both
// count nothing twice. deploy/monitoring has the queries.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "router/cluster_snapshot.h"  // GroupUsage, StaleReason
#include "router/generate_relay.h"    // ClientEvent
#include "router/stats_line.h"        // Traffic

namespace outrider::router {

class RouterMetrics {
 public:
  explicit RouterMetrics(MetricsRegistry& registry);

  // A Generate call ended as `code`, so long after it came; the times of those that ended OK are shown.
  void RequestEnded(absl::StatusCode code, Duration total);
  // An attempt left the queue after so long.
  void RequestDispatched(Duration queued, int64_t num_prompt_tokens);
  // A client was told the end of one of `num_choices` choices that could have `max_tokens` each.
  void ChoiceEnded(const ClientEvent::End& end, uint32_t max_tokens, int num_choices);
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
  struct ReportingGroup {
    std::string id;
    uint64_t incarnation = 0;
    std::string model;
    int max_model_len = 0;
  };
  void GroupReported(const ReportingGroup& group, const GroupUsage& usage);
  // It carries nothing that anybody knows of.
  void GroupLost(const std::string& group_id);

  // Totals and levels as of now, for the line of the log.
  Traffic CurrentTraffic() const;

 private:
  // A group's series and what it had told of itself when they last grew.
  struct Group {
    uint64_t incarnation = 0;
    EngineTotals told;
    Gauge sequences_running;
    Gauge sequences_waiting;
    Gauge kv_cache_used_ratio;
    Gauge kv_blocks;
    Gauge block_size;
    Gauge max_model_len;
    Counter restarts;
    Counter preempted;
    Counter rounds;
    Histogram step_positions;
    std::vector<Counter> draft_tokens;           // by position, as far as any was seen
    std::vector<Counter> draft_tokens_accepted;  // of them
  };
  Group& FindOrAddGroup(const std::string& group_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static constexpr size_t kNumEndReasons = 5;

  MetricsRegistry& registry_;
  std::map<absl::StatusCode, Counter> requests_;
  Counter other_requests_;
  Histogram request_seconds_;
  Histogram queue_seconds_;
  Histogram first_token_seconds_;
  Histogram inter_token_seconds_;
  Counter prompt_tokens_;
  Counter output_tokens_;
  std::array<Counter, kNumEndReasons> choices_;  // by EndReason
  Histogram prefill_seconds_;
  Histogram decode_seconds_;
  Histogram inference_seconds_;
  Histogram token_seconds_;
  Histogram choice_prompt_tokens_;
  Histogram choice_output_tokens_;
  Histogram choice_max_tokens_;
  Histogram request_choices_;
  Counter choice_prompt_tokens_total_;
  Counter choice_cached_tokens_total_;
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
  mutable Mutex mu_;
  std::map<std::string, Group> groups_by_id_ ABSL_GUARDED_BY(mu_);
};

}  // namespace outrider::router
