// StepBackend runs StepPlans, in order. The engine's only view of what computes: a model, or a model of a model in
// tests.
#pragma once

#include "absl/status/statusor.h"
#include "worker/step/step_plan.h"
#include "worker/step/step_result.h"

namespace outrider {

// Thread safety: none; one thread submits and collects.
// Errors: any error is fatal to the group's epoch.
class StepBackend {
 public:
  virtual ~StepBackend() = default;

  // How many steps may be submitted before the first is collected: 1 + depth. Depth 0 on CPU.
  virtual int depth() const = 0;

  // Starts a step. REQUIRES: fewer than 1 + depth() steps are out. May compute before it returns.
  virtual absl::Status Submit(const StepPlan& plan) = 0;

  // Result of the oldest step not yet collected; waits for it.
  virtual absl::StatusOr<StepResult> Collect() = 0;
};

}  // namespace outrider
