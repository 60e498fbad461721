// What a group's leader shows of its ranks: how far each is and how long it has been silent; and what a follower shows
// of its steps.
//
//   ranks that lag:  max by (group) (outrider_rank_last_step) - min by (group) (outrider_rank_last_step)
//
// Thread safety: all methods, from any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "worker/step/step_backend.h"

namespace outrider {

class RankMetrics {
 public:
  RankMetrics(MetricsRegistry& registry, int world_size) {
    for (int rank = 0; rank < world_size; ++rank) {
      const MetricLabels labels = {{"rank", std::to_string(rank)}};
      ranks_.push_back({.last_step = registry.AddGauge("rank_last_step", "Last step a rank finished.", labels),
                        .silence_seconds = registry.AddGauge("rank_silence_seconds",
                                                             "Time since the leader heard of a rank.", labels)});
    }
  }

  // REQUIRES: 0 <= rank < world_size.
  void Heard(int rank, uint64_t last_step, Duration silence) {
    ranks_[rank].last_step.Set(static_cast<double>(last_step));
    ranks_[rank].silence_seconds.Set(std::chrono::duration<double>(silence).count());
  }

 private:
  struct Rank {
    Gauge last_step;
    Gauge silence_seconds;
  };
  std::vector<Rank> ranks_;  // [world_size]
};

struct FollowerMetrics {
  explicit FollowerMetrics(MetricsRegistry& registry)
      : step_seconds(registry.AddHistogram("rank_step_seconds", "Time of a step on this rank.",
                                           ExponentialBuckets(1e-4, 2, 18))) {}
  Histogram step_seconds;
};

// A backend whose steps are measured, from Submit to Collect.
//
// Thread safety: as StepBackend.
class MeasuredBackend final : public StepBackend {
 public:
  // `metrics` outlives this.
  MeasuredBackend(std::unique_ptr<StepBackend> backend, FollowerMetrics& metrics)
      : backend_(std::move(backend)), metrics_(metrics) {}

  int depth() const override { return backend_->depth(); }
  absl::Status Submit(const StepPlan& plan) override {
    began_.push_back(std::chrono::steady_clock::now());
    return backend_->Submit(plan);
  }
  absl::StatusOr<StepResult> Collect() override {
    absl::StatusOr<StepResult> result = backend_->Collect();
    if (!began_.empty()) {
      const Duration elapsed = std::chrono::steady_clock::now() - began_.front();
      metrics_.step_seconds.Observe(std::chrono::duration<double>(elapsed).count());
      began_.pop_front();
    }
    return result;
  }

 private:
  const std::unique_ptr<StepBackend> backend_;
  FollowerMetrics& metrics_;
  std::deque<TimePoint> began_;
};

}  // namespace outrider
