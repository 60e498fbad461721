// DispatchQueue decides which call starts on which group, who waits, and who is refused: what Dispatcher does, without
// threads and wires. It owns the registry of workers and the queue.
//
// A call that finds the queue empty and a group with room starts at once. Anything else waits in order. Processes may
// start in any order: calls that come before any group has told its model wait as they are and are prepared once the
// model is there.
//
// Each call that was routed ends in exactly one of Start, Refusal and Withdraw.
//
// Thread safety: none. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "router/admission_controller.h"
#include "router/least_loaded_policy.h"
#include "router/worker_registry.h"

namespace outrider::router {

// A call's name in the queue; of one router.
using CallId = uint64_t;

class DispatchQueue {
 public:
  struct Options {
    AdmissionController::Options admission;
    WorkerRegistry::Options registry;
  };
  // What was decided. The caller carries it out.
  struct Start {
    CallId call_id = 0;
    GroupRef group;  // was charged for what the call needs; the call releases it
  };
  struct Refusal {
    CallId call_id = 0;
    absl::Status status;
  };
  struct Decisions {
    std::vector<LostWorker> lost;  // streams to them are to be closed
    std::vector<Refusal> refusals;
    std::vector<Start> starts;
    std::vector<CallId> to_prepare;  // tell OnPrepared of each
  };
  explicit DispatchQueue(const Options& options)
      : options_(options), registry_(options.registry), admission_(options.admission) {}

  // --- Calls.
  // `needs` are absent if there is no model yet; `num_tokens_estimate` then stands for the load. `call_id` is not among
  // those that wait.
  void Route(CallId call_id, std::optional<RoutingNeeds> needs, int64_t num_tokens_estimate,
             AdmissionController::Place place, TimePoint now, Decisions& decisions);
  // A call that was to be prepared has its needs, or can not be served. Of one that does not wait any more: nothing
  // happens.
  void OnPrepared(CallId call_id, absl::StatusOr<RoutingNeeds> needs, Decisions& decisions);
  // The call does not want a group any more. False if it did not wait.
  bool Withdraw(CallId call_id);
  void Release(const GroupRef& group, const GroupLoad& load);
  void Hold(const GroupRef& group);

  // --- Workers. Errors are those of WorkerRegistry.
  absl::StatusOr<HeartbeatNews> Heartbeat(const GroupReport& report, TimePoint now);
  absl::StatusOr<HeartbeatNews> Heartbeat(const DraftWorkerReport& report, TimePoint now);
  std::vector<const DraftWorkerView*> DraftWorkersOf(const std::string& group_id);
  void SetConnected(const std::string& group_id, uint64_t incarnation, bool connected);

  // --- Turns.
  // Lost workers, those who waited too long, those who can go now. To be called when turn_wanted(), at next_expiry()
  // and a few times a worker_timeout. `model_ready`: calls without needs can be prepared.
  void TakeTurn(TimePoint now, bool model_ready, Decisions& decisions);
  // Something happened that may let a call go.
  bool turn_wanted() const { return turn_wanted_; }
  void WantTurn() { turn_wanted_ = true; }
  std::optional<TimePoint> next_expiry() const { return admission_.next_expiry(); }

  // --- What there is.
  const ClusterSnapshot& snapshot() const { return registry_.snapshot(); }
  const Options& options() const { return options_; }
  int max_model_len() const { return registry_.max_model_len(); }
  int num_requests() const { return admission_.num_requests(); }
  int64_t num_tokens() const { return admission_.num_tokens(); }
  // Why a call of `needs` (null: any) could not start now, and what to do.
  std::string WhyNot(const RoutingNeeds* needs) const;

 private:
  struct Waiting {
    std::optional<RoutingNeeds> needs;
    bool preparing = false;
  };
  // The chosen group, charged; nothing if none can take it now.
  std::optional<GroupRef> Place(const RoutingNeeds& needs, RoutingRefusal* refusal);
  void StartWhoCan(bool model_ready, Decisions& decisions);

  const Options options_;
  const LeastLoadedPolicy policy_;
  WorkerRegistry registry_;
  AdmissionController admission_;
  absl::flat_hash_map<CallId, Waiting> waiting_;  // those in admission_
  bool turn_wanted_ = false;
};

}  // namespace outrider::router
