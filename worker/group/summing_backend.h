// SummingBackend: a model of a model for tests of groups.
#pragma once

#include <deque>
#include <vector>

#include "worker/parallel/communicator.h"
#include "worker/step/step_backend.h"

namespace outrider::testing {

// Each span commits one token, a sum over the ranks (so a collective of the model's runs between
// the group's own). What it was given is kept.
class SummingBackend final : public StepBackend {
 public:
  SummingBackend(Communicator& communicator, int depth) : communicator_(communicator), depth_(depth) {}

  int depth() const override { return depth_; }

  absl::Status Submit(const StepPlan& plan) override {
    if (plan.step == fail_at) return absl::ResourceExhaustedError("no memory left");
    plans.push_back(plan);
    out_.push_back(plan);
    return absl::OkStatus();
  }

  absl::StatusOr<StepResult> Collect() override {
    const StepPlan plan = out_.front();
    out_.pop_front();
    StepResult result;
    result.step = plan.step;
    for (const Span& span : plan.spans) {
      float token = static_cast<float>(span.sequence.value + plan.step.value);
      if (absl::Status status = communicator_.AllReduceSum(&token, 1); !status.ok()) return status;
      result.spans.push_back({.sequence = span.sequence, .tokens = {static_cast<TokenId>(token)}});
    }
    if (plan.step == differ_at) result.spans[0].tokens[0] += 1;
    result.ids_hash = HashIds(result.spans);
    return result;
  }

  StepId fail_at;
  StepId differ_at;
  std::vector<StepPlan> plans;

 private:
  Communicator& communicator_;
  const int depth_;
  std::deque<StepPlan> out_;
};

// A step of one-token spans of sequences 1, 2, ...
inline StepPlan PlanOf(uint64_t step, int num_spans) {
  StepPlan plan;
  plan.step = StepId(step);
  for (int i = 1; i <= num_spans; ++i) {
    plan.spans.push_back(
        {.sequence = SequenceId(static_cast<uint64_t>(i)), .num_committed_tokens = 1, .samples = true});
  }
  return plan;
}

}  // namespace outrider::testing
