#include "router/router_metrics.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "router/latency_buckets.h"

namespace outrider::router {
namespace {

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

std::vector<double> RequestBounds() { return WithFinerBounds(VllmRequestBounds()); }
std::vector<double> InterTokenBounds() { return WithFinerBounds(VllmInterTokenBounds()); }

Counter ChoiceCounter(MetricsRegistry& registry, const char* reason) {
  return registry.AddCounter("choices_total", "Choices that ended, by the reason their clients were told.",
                             {{"reason", reason}});
}

// What grew since it was told; all of it if the group began anew.
double Growth(int64_t now, int64_t told) { return static_cast<double>(now >= told ? now - told : now); }

Counter OutcomeCounter(MetricsRegistry& registry, const std::string& outcome) {
  return registry.AddCounter("requests_total", "Generate calls that ended, by outcome.", {{"outcome", outcome}});
}

}  // namespace

RouterMetrics::RouterMetrics(MetricsRegistry& registry)
    : registry_(registry),
      other_requests_(OutcomeCounter(registry, "other")),
      request_seconds_(
          registry.AddHistogram("request_seconds", "Time of a Generate call that ended OK.", RequestBounds())),
      queue_seconds_(registry.AddHistogram("request_queue_seconds", "Time in the router's queue.", RequestBounds())),
      first_token_seconds_(registry.AddHistogram("time_to_first_token_seconds",
                                                 "Time from a request's arrival to its first token.",
                                                 WithFinerBounds(VllmFirstTokenBounds()))),
      inter_token_seconds_(registry.AddHistogram(
          "inter_token_seconds", "Time a token after those before of its choice, one observation an arrival.",
          InterTokenBounds())),
      prompt_tokens_(registry.AddCounter("prompt_tokens_total", "Prompt tokens of attempts sent to groups.")),
      output_tokens_(registry.AddCounter("output_tokens_total", "Output tokens relayed to clients.")),
      choices_{ChoiceCounter(registry, "end_token"), ChoiceCounter(registry, "stop_token"),
               ChoiceCounter(registry, "stop_string"), ChoiceCounter(registry, "length"),
               ChoiceCounter(registry, "cancelled")},
      prefill_seconds_(registry.AddHistogram("choice_prefill_seconds",
                                             "Time of a finished choice from its first step to its first token.",
                                             RequestBounds())),
      decode_seconds_(registry.AddHistogram(
          "choice_decode_seconds", "Time of a finished choice from its first token to its last.", RequestBounds())),
      inference_seconds_(registry.AddHistogram("choice_inference_seconds",
                                               "Time of a finished choice from its first step to its last token.",
                                               RequestBounds())),
      token_seconds_(registry.AddHistogram("choice_token_seconds",
                                           "Mean time between a finished choice's tokens, one observation a choice.",
                                           InterTokenBounds())),
      choice_prompt_tokens_(
          registry.AddHistogram("choice_prompt_tokens", "Prompt tokens of a finished choice.", TokenBounds())),
      choice_output_tokens_(
          registry.AddHistogram("choice_output_tokens", "Output tokens of a finished choice.", TokenBounds())),
      choice_max_tokens_(
          registry.AddHistogram("choice_max_tokens", "Output tokens a finished choice could have had.", TokenBounds())),
      request_choices_(
          registry.AddHistogram("request_choices", "Choices asked for with a finished choice.", VllmChoiceBounds())),
      choice_prompt_tokens_total_(
          registry.AddCounter("choices_prompt_tokens_total", "Prompt tokens of finished choices.")),
      choice_cached_tokens_total_(
          registry.AddCounter("choices_cached_tokens_total", "Of them, those found in the prefix cache.")),
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
  if (code == absl::StatusCode::kOk) request_seconds_.Observe(Seconds(total));
}

void RouterMetrics::ChoiceEnded(const ClientEvent::End& end, uint32_t max_tokens, int num_choices) {
  choices_.at(static_cast<size_t>(end.reason)).Add();
  const double decode_ms = end.timing.decode;
  const double prefill_ms = std::max(0.0, end.timing.first_token - end.timing.queue);
  prefill_seconds_.Observe(prefill_ms / 1e3);
  decode_seconds_.Observe(decode_ms / 1e3);
  inference_seconds_.Observe((prefill_ms + decode_ms) / 1e3);
  if (end.usage.output_tokens > 1) token_seconds_.Observe(decode_ms / 1e3 / (end.usage.output_tokens - 1));
  choice_prompt_tokens_.Observe(end.usage.prompt_tokens);
  choice_output_tokens_.Observe(end.usage.output_tokens);
  choice_max_tokens_.Observe(max_tokens);
  request_choices_.Observe(num_choices);
  choice_prompt_tokens_total_.Add(end.usage.prompt_tokens);
  choice_cached_tokens_total_.Add(end.usage.cached_tokens);
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

RouterMetrics::Group& RouterMetrics::FindOrAddGroup(const std::string& group_id) {
  if (const auto found = groups_by_id_.find(group_id); found != groups_by_id_.end()) return found->second;
  const MetricLabels labels = {{"group", group_id}};
  const auto gauge = [&](const char* name, const char* help) { return registry_.AddGauge(name, help, labels); };
  return groups_by_id_
      .emplace(
          group_id,
          Group{.sequences_running = gauge("group_sequences_running", "Sequences a group computes, as it said."),
                .sequences_waiting = gauge("group_sequences_waiting", "Sequences that wait in a group, as it said."),
                .kv_cache_used_ratio =
                    gauge("group_kv_cache_used_ratio", "KV blocks of a group's live sequences, of all, as it said."),
                .kv_blocks = gauge("group_kv_blocks", "KV blocks of a group."),
                .block_size = gauge("group_kv_block_tokens", "Tokens a KV block of a group holds."),
                .max_model_len = gauge("group_max_model_len_tokens", "Tokens of prompt and output a group takes."),
                .restarts =
                    registry_.AddCounter("group_restarts_total", "Times a group came back in another life.", labels),
                .preempted = registry_.AddCounter("group_sequences_preempted_total",
                                                  "Sequences a group paused since blocks ran out.", labels),
                .rounds = registry_.AddCounter("group_draft_rounds_total",
                                               "Spans of a group that verified at least one draft token.", labels),
                .step_positions = registry_.AddHistogram("group_step_positions", "Positions a group's steps computed.",
                                                         {kStepTokenBounds.begin(), kStepTokenBounds.end()}, labels)})
      .first->second;
}

void RouterMetrics::GroupReported(const ReportingGroup& reporting, const GroupUsage& usage) {
  MutexLock lock(mu_);
  Group& group = FindOrAddGroup(reporting.id);
  registry_
      .AddGauge("group_info", "1; the labels tell what a group serves.",
                {{"group", reporting.id}, {"model", reporting.model}})
      .Set(1);
  group.sequences_running.Set(usage.sequences_running);
  group.sequences_waiting.Set(usage.sequences_waiting);
  group.kv_cache_used_ratio.Set(usage.kv_cache_used_ratio);
  group.kv_blocks.Set(usage.num_kv_blocks);
  group.block_size.Set(usage.block_size);
  group.max_model_len.Set(reporting.max_model_len);
  // Its counts began anew with it.
  if (group.incarnation != reporting.incarnation) group.told = {};
  if (group.incarnation != 0 && group.incarnation != reporting.incarnation) group.restarts.Add();
  group.incarnation = reporting.incarnation;
  const EngineTotals& now = usage.totals;
  EngineTotals& told = group.told;
  group.preempted.Add(Growth(now.num_preemptions, told.num_preemptions));
  group.rounds.Add(Growth(now.num_rounds, told.num_rounds));
  for (size_t i = 0; i < kDraftPositionsMax; ++i) {
    if (i > 0 && now.draft_tokens[i] == 0) break;  // positions are reached in order
    if (group.draft_tokens.size() <= i) {
      const MetricLabels labels = {{"group", reporting.id}, {"position", absl::StrCat(i + 1)}};
      group.draft_tokens.push_back(
          registry_.AddCounter("group_draft_tokens_total", "Draft tokens a group verified.", labels));
      group.draft_tokens_accepted.push_back(
          registry_.AddCounter("group_draft_tokens_accepted_total", "Draft tokens a group accepted.", labels));
    }
    group.draft_tokens[i].Add(Growth(now.draft_tokens[i], told.draft_tokens[i]));
    group.draft_tokens_accepted[i].Add(Growth(now.accepted_tokens[i], told.accepted_tokens[i]));
  }
  std::vector<double> steps;
  for (size_t i = 0; i < now.steps_by_tokens.size(); ++i) {
    steps.push_back(Growth(now.steps_by_tokens[i], told.steps_by_tokens[i]));
  }
  group.step_positions.ObserveMany(steps, Growth(now.num_step_tokens, told.num_step_tokens));
  told = now;
}

void RouterMetrics::GroupLost(const std::string& group_id) {
  MutexLock lock(mu_);
  Group& group = FindOrAddGroup(group_id);
  group.sequences_running.Set(0);
  group.sequences_waiting.Set(0);
  group.kv_cache_used_ratio.Set(0);
}

Traffic RouterMetrics::CurrentTraffic() const {
  Traffic traffic;
  traffic.num_prompt_tokens = prompt_tokens_.value();
  traffic.num_output_tokens = output_tokens_.value();
  traffic.num_requests_waiting = requests_waiting_.value();
  MutexLock lock(mu_);
  for (const auto& [id, group] : groups_by_id_) {
    traffic.num_sequences_running += group.sequences_running.value();
    traffic.num_sequences_waiting += group.sequences_waiting.value();
    traffic.kv_cache_used_ratio_max = std::max(traffic.kv_cache_used_ratio_max, group.kv_cache_used_ratio.value());
    traffic.num_draft_rounds += group.rounds.value();
    if (traffic.num_drafted.size() < group.draft_tokens.size()) {
      traffic.num_drafted.resize(group.draft_tokens.size());
      traffic.num_accepted.resize(group.draft_tokens.size());
    }
    for (size_t i = 0; i < group.draft_tokens.size(); ++i) {
      traffic.num_drafted[i] += group.draft_tokens[i].value();
      traffic.num_accepted[i] += group.draft_tokens_accepted[i].value();
    }
  }
  return traffic;
}

}  // namespace outrider::router
