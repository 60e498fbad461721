// What a target group counts, one verb an event.
//
//   acceptance rate:    rate(outrider_draft_tokens_accepted_total[1m]) / rate(outrider_draft_tokens_total[1m])  (both
//   summed) acceptance length:  1 + rate(accepted) / rate(outrider_draft_rounds_total[1m]) hidden share:
//   rate(outrider_draft_rounds_hidden_total[1m]) / rate(outrider_draft_rounds_total[1m]) draft round trip:
//   outrider_draft_round_trip_seconds (commit that asks -> proposal, as the engine sees it) draft wait:
//   rate(outrider_draft_wait_seconds_total[1m]) / rate(outrider_draft_waits_total[1m])
//
// Thread safety: one thread calls the verbs.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/engine_totals.h"
#include "base/metrics.h"
#include "worker/scheduler/scheduler.h"        // SchedulerStats
#include "worker/speculation/draft_planner.h"  // DraftStats
#include "worker/step/step_plan.h"
#include "worker/step/step_result.h"

namespace outrider {

class EngineMetrics {
 public:
  explicit EngineMetrics(MetricsRegistry& registry);

  void RequestEnded(const char* outcome);
  void Started(Duration queue_time) { queue_seconds_.Observe(Seconds(queue_time)); }
  void FirstTokens(int count, Duration since_received) {
    output_tokens_.Add(count);
    totals_.num_committed_tokens += count;
    first_token_seconds_.Observe(Seconds(since_received));
  }
  void NextTokens(int count, Duration since_last);
  // `result` is the plan's: what it discarded was not computed and does not count.
  void StepTook(const StepPlan& plan, const StepResult& result, Duration elapsed);
  void SlowReaderCut() { slow_readers_.Add(); }
  void Snapshot(int num_running, int num_waiting, double kv_used_ratio, double kv_cached_ratio);
  // Totals since the start; what grew since the last call is counted.
  void Totals(const SchedulerStats& scheduler, const DraftStats& drafts);
  // All that was counted, as heartbeats tell it.
  const EngineTotals& totals() const { return totals_; }

 private:
  static double Seconds(Duration d) { return std::chrono::duration<double>(d).count(); }

  MetricsRegistry& registry_;
  std::map<std::string, Counter> requests_;  // by outcome
  Histogram queue_seconds_;
  Histogram first_token_seconds_;
  Histogram inter_token_seconds_;
  std::array<Histogram, 3> step_seconds_;  // prompt, decode, verify
  Histogram step_positions_;
  Histogram lookahead_;
  Counter output_tokens_;
  Counter slow_readers_;
  Gauge sequences_running_;
  Gauge sequences_waiting_;
  Gauge kv_cache_used_ratio_;
  Gauge kv_cache_cached_ratio_;
  Counter preempted_;
  Counter prefix_hit_tokens_;
  Counter steps_;
  Counter step_tokens_;
  Counter rounds_;
  Counter hidden_rounds_;
  Counter waits_;
  Counter wait_misses_;
  Counter wait_seconds_;
  Counter drafts_asked_;
  Counter drafts_answered_;
  Counter round_trips_;
  Counter round_trip_seconds_;
  std::vector<Counter> draft_tokens_;           // by position
  std::vector<Counter> draft_tokens_accepted_;  // by position
  std::vector<Counter> proposals_dropped_;      // by DropReason
  SchedulerStats told_scheduler_;
  DraftStats told_drafts_;
  EngineTotals totals_;
};

}  // namespace outrider
