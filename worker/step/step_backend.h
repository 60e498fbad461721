// StepBackend runs StepPlans, in order. The engine's only view of what computes: a model, or a model of a model in
// tests.
#pragma once

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "worker/step/step_plan.h"
#include "worker/step/step_result.h"

namespace outrider {

// Thread safety: none; one thread submits and collects.
// Errors: any error is fatal to the group's epoch.
class StepBackend {
 public:
  virtual ~StepBackend() = default;

  // How many steps may be submitted before the first is collected: 1 + depth.
  virtual int depth() const = 0;

  // Starts a step. REQUIRES: fewer than 1 + depth() steps are out. May compute before it returns. `plan` is not needed
  // once it has.
  virtual absl::Status Submit(const StepPlan& plan) = 0;

  // Result of the oldest step not yet collected; waits for it.
  virtual absl::StatusOr<StepResult> Collect() = 0;

  // Both, for a step beside which nothing is planned. REQUIRES: no step is out.
  virtual absl::StatusOr<StepResult> SubmitAndCollect(const StepPlan& plan) {
    RETURN_IF_ERROR(Submit(plan));
    return Collect();
  }
};

}  // namespace outrider
