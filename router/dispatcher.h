// Dispatcher brings calls and target groups together: the shell around a DispatchQueue. It owns a TargetClient for each
// group and one thread that takes the queue's turns.
//
// Lock order: a call may hold its own lock when it calls Release and Hold, not when it calls Route or Withdraw. The
// dispatcher never calls out with its lock held.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "router/cluster_state.h"
#include "router/dispatch_queue.h"
#include "router/model_store.h"
#include "router/router_metrics.h"
#include "router/target_client.h"

namespace outrider::router {

// Where an attempt runs.
struct Placement {
  std::shared_ptr<TargetClient> client;
  GroupRef group;
};

// A call that wants a group.
class RoutedCall {
 public:
  // `call_id` is the call's alone in this router.
  explicit RoutedCall(CallId call_id) : call_id_(call_id) {}
  virtual ~RoutedCall() = default;
  CallId call_id() const { return call_id_; }
  // The model is there. Asked once, of calls that were routed without needs.
  virtual absl::StatusOr<RoutingNeeds> Prepare(std::shared_ptr<const ServedModel> model, int max_model_len) = 0;
  // The group was charged for what the call needs; the call releases it.
  virtual void Start(Placement placement) = 0;
  // It will not start: queue bounds, or nobody could take it in time.
  virtual void Refuse(const absl::Status& status) = 0;

 private:
  const CallId call_id_;
};

struct ClusterCounts {
  int num_groups = 0;          // registered
  int num_groups_serving = 0;  // of them, those that take requests of a model that is ready
  int num_draft_workers = 0;
  std::vector<std::string> numerics_ids;  // of the groups that serve; each once
};

class Dispatcher {
 public:
  // The pointers outlive this; without `links` groups are called openly.
  Dispatcher(const DispatchQueue::Options& options, const Clock* clock, RouterMetrics* metrics,
             const LinkSecurity* links = nullptr);
  // REQUIRES: every call has ended.
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // --- Calls.
  // Ends in exactly one of Start, Refuse and Withdraw, maybe before this returns. False if it was refused at once: it
  // was never admitted.
  bool Route(const std::shared_ptr<RoutedCall>& call, RouteRequest request);
  // The call does not want a group any more. Of one that does not wait: nothing happens.
  void Withdraw(const RoutedCall& call);
  // `served_in`: what is released was served, in so long from its start.
  void Release(const GroupRef& group, const GroupLoad& load, std::optional<Duration> served_in);
  void Hold(const GroupRef& group);

  // --- Workers. Errors are those of WorkerRegistry.
  // Returns the draft workers that the group is to use.
  absl::StatusOr<std::vector<DraftWorkerView>> Heartbeat(const GroupReport& report);
  absl::Status Heartbeat(const DraftWorkerReport& report);

  // --- What there is.
  // Null until a group has told its model.
  std::shared_ptr<const ServedModel> model() const { return store_.model(); }
  // The greatest context of the groups; the model's own if none is there now.
  int MaxModelLen(const ServedModel& model) const;
  ClusterCounts Counts() const;
  ClusterState State() const;
  // At least one group takes requests, and the dispatcher's thread turns.
  bool Serving() const;
  bool Turns() const;
  // Why a call could not start now, and what to do.
  std::string WhyNotServing() const;

 private:
  struct Client {
    uint64_t number = 0;  // of this client alone: what an earlier one of the same group still says is old
    uint64_t incarnation = 0;
    std::shared_ptr<TargetClient> client;
  };
  // What to do once the lock is free.
  struct Work {
    std::vector<std::pair<std::shared_ptr<RoutedCall>, Placement>> starts;
    std::vector<std::pair<std::shared_ptr<RoutedCall>, absl::Status>> refusals;
    std::vector<std::shared_ptr<RoutedCall>> to_prepare;
    std::vector<std::pair<std::shared_ptr<TargetClient>, int64_t>> hand_overs;
    std::vector<std::shared_ptr<TargetClient>> to_fence;
    std::vector<std::shared_ptr<TargetClient>> to_close;
    std::vector<std::shared_ptr<TargetClient>> to_keep_open;
  };

  void Run();
  void TakeTurn(Work& work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Nothing more is taken from the client's group; what it says is counted.
  void Fence(std::shared_ptr<TargetClient> client, Work& work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Finds the calls and clients that decisions are about.
  void Resolve(DispatchQueue::Decisions& decisions, Work& work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Do(Work& work);
  Client MakeClient(const WorkerIdentity& who) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnConnected(const std::string& group_id, uint64_t client_number, bool connected);
  void OnGone(const std::string& group_id, uint64_t incarnation);
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WakeIfWanted() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool LogOnce(const std::string& worker_id, uint64_t incarnation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Clock* const clock_;
  const TimePoint started_;
  RouterMetrics* const metrics_;
  const LinkSecurity* const links_;
  CallGate gate_;

  mutable Mutex mu_;
  CondVar wake_changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  TimePoint last_turn_ ABSL_GUARDED_BY(mu_);
  DispatchQueue queue_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<CallId, std::shared_ptr<RoutedCall>> waiting_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, Client> clients_ ABSL_GUARDED_BY(mu_);
  uint64_t num_clients_made_ ABSL_GUARDED_BY(mu_) = 0;
  // Given up; open until they speak or kFencedMax has passed.
  std::vector<std::pair<TimePoint, std::shared_ptr<TargetClient>>> fenced_ ABSL_GUARDED_BY(mu_);
  // Workers whose refusal was logged, so that each is once.
  absl::flat_hash_set<std::pair<std::string, uint64_t>> logged_ ABSL_GUARDED_BY(mu_);

  ModelStore store_;
  int64_t num_quarantined_told_ ABSL_GUARDED_BY(mu_) = 0;
  std::thread thread_;
};

}  // namespace outrider::router
