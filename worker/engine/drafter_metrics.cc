#include "worker/engine/drafter_metrics.h"

namespace outrider {
namespace {

constexpr std::array<const char*, kNumDrafterDropReasons> kReasonNames = {
    "unknown_sequence", "stale_epoch",        "token_out_of_range", "bad_params", "too_long",    "gap",
    "contradiction",    "too_many_sequences", "no_kv_blocks",       "not_finite", "slow_reader", "draining"};

template <size_t... I>
std::array<Counter, kNumDrafterDropReasons> DroppedCounters(MetricsRegistry& registry, std::index_sequence<I...>) {
  return {registry.AddCounter("drafter_commands_dropped_total",
                              "Commands of targets, or drafts for them, that were dropped.",
                              {{"reason", kReasonNames[I]}})...};
}

}  // namespace

DrafterMetrics::DrafterMetrics(MetricsRegistry& registry)
    : commands_(registry.AddCounter("drafter_commands_total", "Commands taken from targets.")),
      dropped_(DroppedCounters(registry, std::make_index_sequence<kNumDrafterDropReasons>())),
      step_seconds_(registry.AddHistogram("drafter_step_seconds", "Time of one step of the draft model.",
                                          ExponentialBuckets(1e-4, 2, 16))),
      computed_tokens_(registry.AddCounter("drafter_computed_tokens_total", "Positions the draft model computed.")),
      drafted_tokens_(registry.AddCounter("drafter_tokens_total", "Tokens drafted.")),
      proposals_(registry.AddCounter("drafter_proposals_total", "Proposals made.")),
      proposals_ahead_(
          registry.AddCounter("drafter_proposals_ahead_total", "Proposals made before anybody asked for them.")),
      answer_seconds_(registry.AddHistogram("drafter_answer_seconds", "From a commit that asks for a draft to it.",
                                            ExponentialBuckets(1e-4, 2, 16))),
      kv_dropped_(registry.AddCounter("drafter_kv_dropped_total", "Sequences whose KV made room for others.")),
      sequences_(registry.AddGauge("drafter_sequences", "Open sequences.")),
      kv_used_ratio_(registry.AddGauge("drafter_kv_cache_used_ratio", "KV blocks in use, of all.")) {}

void DrafterMetrics::StepTook(Duration elapsed, int num_tokens, int num_drafted) {
  step_seconds_.Observe(std::chrono::duration<double>(elapsed).count());
  computed_tokens_.Add(num_tokens);
  drafted_tokens_.Add(num_drafted);
}

void DrafterMetrics::LoadIs(int num_sequences, double kv_used_ratio) {
  sequences_.Set(num_sequences);
  kv_used_ratio_.Set(kv_used_ratio);
}

}  // namespace outrider
