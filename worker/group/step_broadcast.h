// Several rank processes run every step as one: the leader's GroupBackend sends each plan to all ranks, every rank runs
// it on its own StepBackend, and all compare the hash of the ids they chose. Ranks that chose differently, or a rank
// that failed, end the epoch: nothing computed after is trusted.
//
// On the communicator, in this order, a step is: a command with the plan (leader to all), the collectives of the model,
// and one all-gather of (step, ids_hash). With depth() > 0 steps overlap: a rank collects its oldest step when
// 1 + depth() are out, and earlier only when the leader sends a command that says so.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/group/plan_codec.h"
#include "worker/group/step_progress.h"
#include "worker/parallel/communicator.h"
#include "worker/step/step_backend.h"

namespace outrider {

// The hash comparison that ends each step, the same on every rank.
//
// Thread safety: none.
class StepAgreement {
 public:
  // `communicator` outlives this.
  explicit StepAgreement(Communicator& communicator);

  // Errors: INTERNAL naming the step and each rank that differs from the leader (the communicator is then aborted);
  // else the communicator's.
  absl::Status Check(StepId step, uint64_t ids_hash);

 private:
  struct Vote {
    uint64_t step;
    uint64_t ids_hash;
  };
  Communicator& communicator_;
  std::vector<int64_t> bytes_of_rank_;
  std::vector<Vote> votes_;  // [world_size]
};

// The leader's StepBackend. With one rank it is the local backend and nothing else.
//
// Thread safety: none; one thread.
// Errors: INTERNAL when ranks disagree; UNAVAILABLE when a rank is lost or failed (its words are in the message); the
// local backend's own. After any of them the epoch is over: the communicator is aborted and every call fails.
class GroupBackend final : public StepBackend {
 public:
  // All outlive this; `progress` may be null. REQUIRES: communicator.rank() == 0; every other rank runs RunFollower.
  GroupBackend(StepBackend& local, Communicator& communicator, StepProgress* progress = nullptr);

  int depth() const override { return local_.depth(); }
  absl::Status Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Collect() override;

  // Orderly end: every other rank knows when this returns, and its RunFollower returns OK. REQUIRES: no step is out.
  // Nothing may follow.
  absl::Status Stop();

 private:
  absl::Status Fail(absl::Status status);

  StepBackend& local_;
  Communicator& communicator_;
  StepProgress* const progress_;
  const bool alone_;
  PlanCodec codec_;
  StepAgreement agreement_;
  std::string blob_;
  int num_out_ = 0;
  absl::Status failed_;
};

struct FollowerOptions {
  PlanLimits limits;
  // Where steps are told, for progress messages; may be null. Outlives the call.
  StepProgress* progress = nullptr;
};

// The loop of a rank above 0: runs what the leader sends until the leader stops the group (OK) or the epoch ends (the
// reason). Sleeps while the group is idle, without a bound. An error of this rank's backend aborts the group with the
// error's words. To end it from another thread: communicator.Abort.
absl::Status RunFollower(StepBackend& backend, Communicator& communicator, const FollowerOptions& options = {});

}  // namespace outrider
