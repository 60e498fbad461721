#include "worker/engine/engine_metrics.h"

#include <algorithm>

namespace outrider {
namespace {

Histogram StepHistogram(MetricsRegistry& registry, const char* kind) {
  return registry.AddHistogram("step_seconds", "Time of a step: plan, compute, result.",
                               ExponentialBuckets(1e-4, 2, 16), {{"kind", kind}});
}

// Gives what `now` has more than `told`, and notes it.
template <typename T>
double Growth(T now, T& told) {
  const double growth = std::max(0.0, static_cast<double>(now) - static_cast<double>(told));
  told = now;
  return growth;
}

}  // namespace

EngineMetrics::EngineMetrics(MetricsRegistry& registry)
    : registry_(registry),
      queue_seconds_(registry.AddHistogram("sequence_queue_seconds", "From receipt to the first step.",
                                           ExponentialBuckets(1e-4, 2, 20))),
      first_token_seconds_(registry.AddHistogram("sequence_first_token_seconds", "From receipt to the first token.",
                                                 ExponentialBuckets(1e-3, 2, 18))),
      inter_token_seconds_(registry.AddHistogram("sequence_inter_token_seconds", "Between output tokens of a sequence.",
                                                 ExponentialBuckets(1e-4, 2, 18))),
      step_seconds_{StepHistogram(registry, "prompt"), StepHistogram(registry, "decode"),
                    StepHistogram(registry, "verify")},
      step_positions_(registry.AddHistogram("step_positions", "Positions a step computed, over all its rows.",
                                            {kStepTokenBounds.begin(), kStepTokenBounds.end()})),
      lookahead_(registry.AddHistogram("lookahead_tokens", "Draft tokens a row was given room for, one a decoding row.",
                                       {0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32})),
      output_tokens_(registry.AddCounter("committed_tokens_total", "Tokens committed.")),
      slow_readers_(registry.AddCounter("slow_readers_cut_total", "Sequences ended since their reader was too slow.")),
      sequences_running_(registry.AddGauge("sequences_running", "Sequences that are computed.")),
      sequences_waiting_(registry.AddGauge("sequences_waiting", "Sequences that wait to be computed.")),
      kv_cache_used_ratio_(registry.AddGauge("kv_cache_used_ratio", "KV blocks of live sequences, of all.")),
      kv_cache_cached_ratio_(
          registry.AddGauge("kv_cache_cached_ratio", "KV blocks known to the prefix cache, of all.")),
      preempted_(registry.AddCounter("sequences_preempted_total", "Sequences paused since blocks ran out.")),
      prefix_hit_tokens_(registry.AddCounter("prefix_cache_hit_tokens_total", "Prompt tokens found in the cache.")),
      steps_(registry.AddCounter("steps_total", "Steps.")),
      step_tokens_(registry.AddCounter("step_tokens_total", "Positions computed in steps.")),
      rounds_(registry.AddCounter("draft_rounds_total", "Spans that verified at least one draft token.")),
      hidden_rounds_(registry.AddCounter("draft_rounds_hidden_total", "Rounds whose draft was there without a wait.")),
      waits_(registry.AddCounter("draft_waits_total", "Spans that waited for a draft.")),
      wait_misses_(registry.AddCounter("draft_wait_misses_total", "Waits that ended without a draft.")),
      wait_seconds_(registry.AddCounter("draft_wait_seconds_total", "Time spans waited for drafts.")),
      drafts_asked_(registry.AddCounter("draft_requests_total", "Drafts asked of sources.")),
      drafts_answered_(registry.AddCounter("draft_answers_total", "Drafts that sources answered.")),
      round_trips_(registry.AddCounter("draft_round_trips_total", "Answers of sources that were caught up.")),
      round_trip_seconds_(registry.AddCounter("draft_round_trip_seconds_total",
                                              "From a commit that asks for a draft to its answer, summed.")) {
  for (int i = 0; i < kMaxLookahead; ++i) {
    const MetricLabels position = {{"position", std::to_string(i + 1)}};
    draft_tokens_.push_back(registry.AddCounter("draft_tokens_total", "Draft tokens verified.", position));
    draft_tokens_accepted_.push_back(
        registry.AddCounter("draft_tokens_accepted_total", "Draft tokens accepted.", position));
  }
  for (int i = 0; i < kNumDropReasons; ++i) {
    proposals_dropped_.push_back(registry.AddCounter("draft_proposals_dropped_total", "Proposals not used.",
                                                     {{"reason", DropReasonName(static_cast<DropReason>(i))}}));
  }
}

void EngineMetrics::RequestEnded(const char* outcome) {
  const auto known = requests_.find(outcome);
  if (known != requests_.end()) return known->second.Add();
  Counter counter = registry_.AddCounter("sequences_total", "Sequences that ended.", {{"outcome", outcome}});
  counter.Add();
  requests_.emplace(outcome, counter);
}

void EngineMetrics::NextTokens(int count, Duration since_last) {
  output_tokens_.Add(count);
  totals_.num_committed_tokens += count;
  for (int i = 0; i < count; ++i) inter_token_seconds_.Observe(Seconds(since_last) / count);
}

void EngineMetrics::StepTook(const StepPlan& plan, const StepResult& result, Duration elapsed) {
  bool computes_prompt = false;
  bool verifies = false;
  int num_positions = 0;
  int num_discarded = 0;
  for (size_t i = 0; i < plan.spans.size(); ++i) {
    const Span& span = plan.spans[i];
    if (i < result.spans.size() && IsDiscarded(span, result.spans[i])) {
      ++num_discarded;
      continue;
    }
    num_positions += span.num_committed_tokens + span.lookahead;
    if (span.samples && span.num_committed_tokens == 1) lookahead_.Observe(span.lookahead);
    computes_prompt |= !span.samples || span.num_committed_tokens > 1;
    verifies |= span.lookahead > 0;
  }
  if (num_positions == 0 && num_discarded > 0) return;  // it computed nothing
  step_seconds_[computes_prompt ? 0 : verifies ? 2 : 1].Observe(Seconds(elapsed));
  if (num_positions == 0) return;  // it only began or ended sequences
  step_positions_.Observe(num_positions);
  totals_.num_step_tokens += num_positions;
  const auto bound = std::lower_bound(kStepTokenBounds.begin(), kStepTokenBounds.end(), num_positions);
  ++totals_.steps_by_tokens[bound - kStepTokenBounds.begin()];
}

void EngineMetrics::Snapshot(int num_running, int num_waiting, double kv_used_ratio, double kv_cached_ratio) {
  sequences_running_.Set(num_running);
  sequences_waiting_.Set(num_waiting);
  kv_cache_used_ratio_.Set(kv_used_ratio);
  kv_cache_cached_ratio_.Set(kv_cached_ratio);
}

void EngineMetrics::Totals(const SchedulerStats& scheduler, const DraftStats& drafts) {
  preempted_.Add(Growth(scheduler.num_preemptions, told_scheduler_.num_preemptions));
  prefix_hit_tokens_.Add(Growth(scheduler.num_cached_tokens, told_scheduler_.num_cached_tokens));
  steps_.Add(Growth(scheduler.num_steps, told_scheduler_.num_steps));
  step_tokens_.Add(Growth(scheduler.num_step_tokens, told_scheduler_.num_step_tokens));
  rounds_.Add(Growth(scheduler.num_rounds, told_scheduler_.num_rounds));
  hidden_rounds_.Add(Growth(scheduler.num_hidden_rounds, told_scheduler_.num_hidden_rounds));
  waits_.Add(Growth(scheduler.num_draft_waits, told_scheduler_.num_draft_waits));
  wait_misses_.Add(Growth(scheduler.num_draft_misses, told_scheduler_.num_draft_misses));
  wait_seconds_.Add(std::max(0.0, Seconds(scheduler.draft_wait_total - told_scheduler_.draft_wait_total)));
  told_scheduler_.draft_wait_total = scheduler.draft_wait_total;

  totals_.num_preemptions = scheduler.num_preemptions;
  totals_.num_rounds = scheduler.num_rounds;
  totals_.num_hidden_rounds = scheduler.num_hidden_rounds;
  static_assert(kMaxLookahead == kDraftPositionsMax);
  totals_.draft_tokens = drafts.num_verified;
  totals_.accepted_tokens = drafts.num_accepted;

  drafts_asked_.Add(Growth(drafts.num_requests, told_drafts_.num_requests));
  drafts_answered_.Add(Growth(drafts.num_answers, told_drafts_.num_answers));
  round_trips_.Add(Growth(drafts.num_latencies, told_drafts_.num_latencies));
  round_trip_seconds_.Add(Growth(drafts.latency_ms_total, told_drafts_.latency_ms_total) / 1e3);
  for (int i = 0; i < kMaxLookahead; ++i) {
    if (drafts.num_verified[i] == told_drafts_.num_verified[i]) break;  // positions are reached in order
    draft_tokens_[i].Add(Growth(drafts.num_verified[i], told_drafts_.num_verified[i]));
    draft_tokens_accepted_[i].Add(Growth(drafts.num_accepted[i], told_drafts_.num_accepted[i]));
  }
  for (int i = 0; i < kNumDropReasons; ++i) {
    proposals_dropped_[i].Add(Growth(drafts.num_dropped[i], told_drafts_.num_dropped[i]));
  }
}

}  // namespace outrider
