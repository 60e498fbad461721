// What a draft worker counts, one verb an event.
//
//   draft tokens a second:    rate(outrider_drafter_tokens_total[1m])
//   share of commands dropped: rate(outrider_drafter_commands_dropped_total[5m]) /
//   rate(outrider_drafter_commands_total[5m])
//
// Thread safety: all methods, from any thread.
#pragma once

#include <array>

#include "base/clock.h"
#include "base/metrics.h"

namespace outrider {

// Why a draft worker did not do what a target asked for.
enum class DrafterDropReason {
  kUnknownSequence,
  kStaleEpoch,
  kTokenOutOfRange,
  kBadParams,
  kTooLong,           // beyond max_model_len
  kGap,               // a commit that begins beyond what is known
  kContradiction,     // a commit that changes what was committed
  kTooManySequences,  // beyond max_sequences
  kNoKvBlocks,        // a draft given up, since no memory could be had for it
  kNotFinite,         // the draft model's logits were not finite
  kSlowReader,        // proposals a target did not read in time
  kDraining,          // a sequence opened while the worker drains
};
inline constexpr int kNumDrafterDropReasons = 12;

class DrafterMetrics {
 public:
  explicit DrafterMetrics(MetricsRegistry& registry);

  void CommandsTaken(int count) { commands_.Add(count); }
  void Dropped(DrafterDropReason reason) { dropped_[static_cast<int>(reason)].Add(); }
  double num_dropped(DrafterDropReason reason) const { return dropped_[static_cast<int>(reason)].value(); }
  void StepTook(Duration elapsed, int num_tokens, int num_drafted);
  void Proposed(Duration since_asked) {
    proposals_.Add();
    answer_seconds_.Observe(std::chrono::duration<double>(since_asked).count());
  }
  void ProposedAhead() { proposals_ahead_.Add(); }
  void KvDropped() { kv_dropped_.Add(); }
  void LoadIs(int num_sequences, double kv_used_ratio);

 private:
  Counter commands_;
  std::array<Counter, kNumDrafterDropReasons> dropped_;
  Histogram step_seconds_;
  Counter computed_tokens_;
  Counter drafted_tokens_;
  Counter proposals_;
  Counter proposals_ahead_;
  Histogram answer_seconds_;
  Counter kv_dropped_;
  Gauge sequences_;
  Gauge kv_used_ratio_;
};

}  // namespace outrider
