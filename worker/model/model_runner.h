// ModelRunner computes StepPlans on one rank: plan -> inputs -> forward pass -> sampled and verified tokens.
//
// It keeps the mirror of every live sequence (prompt, output, parameters, block table), so that a plan names positions
// only; it commits what each step chose. Steps are computed when they are submitted, yet spans with a predecessor are
// resolved from the mirror all the same, so that a scheduler may plan ahead of results.
//
// A plan may come over a wire: whatever in it could lead outside a buffer - positions, ids, blocks, counts - is refused
// with INVALID_ARGUMENT naming step, sequence and value before anything is computed. Other errors are those of the
// communicator. Any error is fatal to the epoch.
//
// Hot path: buffers are sized for max_step_tokens when it is made; a step allocates its result and, in each layer,
// attention's work list (allocation_test).
//
// An end of a sequence that is not known here is no error: there is nothing to forget.
//
// Thread safety: none; one thread submits and collects. All ranks must be given the same plans.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/model/loaded_model.h"
#include "worker/model/op_clock.h"
#include "worker/step/step_backend.h"

namespace outrider {

class ModelRunner final : public StepBackend {
 public:
  ~ModelRunner() override;

  int depth() const override { return 0; }
  absl::Status Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Collect() override;

  // Rows of the last step's logits, this rank's part of the vocabulary, in span order and then by position: the bits
  // that exactness is about, in host memory. Valid until the next Submit. On a GPU they are copied: for tests and
  // tools.
  struct LogitsView {
    const float* data = nullptr;  // [num_rows, stride]
    int num_rows = 0;
    int num_columns = 0;  // shard().vocab.size()
    int stride = 0;
  };
  LogitsView last_logits() const;

  // Whether steps from now on note where their time goes, which makes them slower; not at first. Each rank for itself.
  // Time by op of the last step that did. REQUIRES, both: made with RunnerOptions::profile.
  void SetProfiled(bool profiled);
  absl::StatusOr<OpTimes> last_profile() const;
  // Kernels of the last step up to its logits; 0 on a CPU, and where a GPU did not run it as a graph.
  int last_num_launches() const;

  // Sequences whose mirror is held.
  int num_sequences() const;

 private:
  friend class LoadedModel;
  class State;
  explicit ModelRunner(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace outrider
