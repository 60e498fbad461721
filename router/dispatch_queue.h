// DispatchQueue decides which call starts on which group, who waits, and who is refused: what Dispatcher does, without
// threads and wires. It owns the registry of workers and the queue.
//
// A call that finds the queue empty and a group with room starts at once. Anything else waits in order. Processes may
// start in any order: calls that come before any group has told its model wait as they are and are prepared once the
// model is there.
//
// Refused at once: what the queue's bounds leave no room for, and what would wait beyond queue_timeout or its deadline
// by the measured rate. A refusal says when to come again.
//
// Replays wait replay_wait for a group, in which groups that restart are back; each costs a token of the retry budget.
// What kills one group often kills others within a moment, so a replay of a group that is gone settles for
// kReplaySettle first: it does not go to one that is about to follow. A request that was on two groups when they died
// is quarantined: it is refused, and so are its like for a while. Only deaths that are known for sure count
// (GroupFate), not leases that ran out: a partition says nothing of a request. While the fate of its second group is
// open, it waits.
//
// Each call that was routed ends in exactly one of Start, Refusal and Withdraw.
//
// Thread safety: none. Pure. REQUIRES everywhere: `now` never goes back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/token_bucket.h"
#include "router/admission_controller.h"
#include "router/prefix_affinity_policy.h"
#include "router/prefix_index.h"
#include "router/quarantine.h"
#include "router/route_request.h"
#include "router/service_rate.h"
#include "router/worker_registry.h"

namespace outrider::router {

// A call's name in the queue; of one router.
using CallId = uint64_t;

// A request's deaths of groups, after which it is quarantined.
inline constexpr int kGroupDeathsMax = 2;
inline constexpr Duration kReplaySettle = std::chrono::milliseconds(200);

class DispatchQueue {
 public:
  struct Options {
    AdmissionController::Options admission;
    WorkerRegistry::Options registry;
    TokenBucket::Options retry_budget;
    int64_t prefix_affinity_tokens = 2048;  // PrefixAffinityPolicy's load_tokens
  };
  // What was decided. The caller carries it out.
  struct Start {
    CallId call_id = 0;
    GroupRef group;  // was charged for what the call needs; the call releases it
  };
  struct Refusal {
    CallId call_id = 0;
    absl::Status status;   // with a retry time (retry_after.h) where a retry may help
    bool admitted = true;  // false: it was never taken into the queue
  };
  // The group drains, and others of its numerics have room: so many lanes of its attempts are to go on there.
  struct HandOver {
    GroupRef group;
    int64_t num_lanes = 0;
  };
  struct Decisions {
    std::vector<LostWorker> lost;  // nothing more is taken from them
    std::vector<HandOver> hand_overs;
    std::vector<Refusal> refusals;
    std::vector<Start> starts;
    std::vector<CallId> to_prepare;  // tell OnPrepared of each
  };
  DispatchQueue(const DispatchQueue&) = delete;
  DispatchQueue& operator=(const DispatchQueue&) = delete;
  explicit DispatchQueue(const Options& options)
      : options_(options),
        policy_(&prefixes_, options.prefix_affinity_tokens),
        registry_(options.registry),
        admission_(options.admission),
        budget_(options.retry_budget) {}

  // --- Calls.
  // `call_id` is not among those that wait.
  void Route(CallId call_id, RouteRequest request, TimePoint now, Decisions& decisions);
  // A call that was to be prepared has its needs, or can not be served. Of one that does not wait any more: nothing
  // happens.
  void OnPrepared(CallId call_id, absl::StatusOr<RoutingNeeds> needs, Decisions& decisions);
  // The call does not want a group any more. False if it did not wait.
  bool Withdraw(CallId call_id, TimePoint now);
  // `served_in`: what is released was served, in so long from its start.
  void Release(const GroupRef& group, const GroupLoad& load, std::optional<Duration> served_in, TimePoint now);
  void Hold(const GroupRef& group);

  // --- Workers. Errors are those of WorkerRegistry.
  absl::StatusOr<HeartbeatNews> Heartbeat(const GroupReport& report, TimePoint now);
  absl::StatusOr<HeartbeatNews> Heartbeat(const DraftWorkerReport& report, TimePoint now);
  std::vector<const DraftWorkerView*> DraftWorkersOf(const std::string& group_id);
  void SetConnected(const std::string& group_id, uint64_t incarnation, bool connected);
  void NoteGone(const std::string& group_id, uint64_t incarnation);

  // --- Turns.
  // Lost workers, those who waited too long, those who can go now. To be called when turn_wanted(), at next_turn() and
  // a few times a worker_timeout. `model_ready`: calls without needs can be prepared.
  void TakeTurn(TimePoint now, bool model_ready, Decisions& decisions);
  // Something happened that may let a call go.
  bool turn_wanted() const { return turn_wanted_; }
  void WantTurn() { turn_wanted_ = true; }
  // When time alone changes something: a wait ends, a replay has settled or finds a token of the budget.
  std::optional<TimePoint> next_turn() const;

  // --- What there is.
  const ClusterSnapshot& snapshot() const { return registry_.snapshot(); }
  const DraftPairing& pairing() const { return registry_.pairing(); }
  const Options& options() const { return options_; }
  int max_model_len() const { return registry_.max_model_len(); }
  int num_requests() const { return admission_.num_requests(); }
  int64_t num_tokens() const { return admission_.num_tokens(); }
  int64_t num_quarantined() const { return num_quarantined_; }  // refusals for it, so far
  // Why a call of `needs` (null: any) could not start now, and what to do.
  std::string WhyNot(const RoutingNeeds* needs) const;

 private:
  struct Waiting {
    RouteRequest request;
    bool preparing = false;
    bool paid = false;  // its token of the retry budget is taken
  };
  enum class Verdict : uint8_t { kMayStart, kSettles, kWaits, kQuarantined };
  static AdmissionController::Arrival ArrivalOf(const RouteRequest& request);

  // What the groups it was on say of a request.
  Verdict Judge(const RouteRequest& request, TimePoint now) const;
  absl::Status QuarantineOf(const RouteRequest& request, TimePoint now);
  // Not OK if it would wait in vain.
  absl::Status CheckWait(const RouteRequest& request, TimePoint now);
  // The chosen group, charged; nothing if none can take it now.
  std::optional<GroupRef> Place(const RoutingNeeds& needs, RoutingRefusal* refusal);
  void WantTurnAt(TimePoint at);
  // True if a replay may go as far as the budget is concerned.
  bool Pay(Waiting& waiting, TimePoint now);
  void StartWhoCan(TimePoint now, bool model_ready, Decisions& decisions);
  void HandOverDraining(Decisions& decisions);
  absl::Status RefusalOfExpired(const Waiting& waiting, TimePoint now) const;
  int64_t NumPlaces() const;  // sequences that groups that serve run at once
  // When the queue will have room, about.
  Duration RetryAfter(TimePoint now);

  const Options options_;
  PrefixIndex prefixes_;
  const PrefixAffinityPolicy policy_;
  WorkerRegistry registry_;
  AdmissionController admission_;
  TokenBucket budget_;
  ServiceRate rate_;
  Quarantine quarantine_;
  absl::flat_hash_map<CallId, Waiting> waiting_;  // those in admission_
  // Somebody waits for the budget, or settles, until then.
  std::optional<TimePoint> replay_turn_;
  int64_t num_quarantined_ = 0;
  bool turn_wanted_ = false;
};

}  // namespace outrider::router
