// SimulatedTarget is a target group: the real TargetEngine (scheduler, KV, draft planner) over a fake model, the real
// GroupMembership over rank processes, with events in place of threads and of worker/rpc. A supervisor starts its
// processes again together.
//
// Checked here, at every turn: the scheduler's invariants (no KV block twice, used blocks are those of live sequences),
// bounds, that a cancelled lane says nothing more, that the oldest sequence gets on.
//
// Thread safety: none.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "proto/group.pb.h"
#include "proto/target.pb.h"
#include "tests/simulation/draft_stream.h"
#include "tests/simulation/fake_model.h"
#include "tests/simulation/world.h"
#include "worker/engine/target_engine.h"

namespace outrider::simulation {

inline constexpr char kTargetService[] = "target";
inline constexpr char kModelName[] = "letters";

class SimulatedTarget {
 public:
  struct Options {
    std::string id;
    std::string numerics_id = "exact";
    int num_ranks = 1;
    TargetEngine::Options engine;
    FakeModel::Options model;
    int max_buffered_tokens = 4096;
    Duration silence_max = std::chrono::seconds(2);
    Duration step_timeout = std::chrono::seconds(10);
    Duration drain_max = std::chrono::seconds(5);
    double start_ms = 150;
  };
  struct Totals {
    int64_t num_preemptions = 0;
    int64_t num_rounds = 0;
    int64_t num_accepted = 0;
    int64_t num_steps = 0;
    int64_t num_dropped_proposals = 0;
  };
  SimulatedTarget(World& world, Process*& router, Options options);
  ~SimulatedTarget();

  // Rank 0 leads.
  Process& process(int rank) { return *ranks_[rank]; }
  int num_ranks() const { return options_.num_ranks; }
  Supervision& supervision() { return supervision_; }
  // SIGTERM to the leader.
  void Terminate();
  void set_slowness(double factor);
  const std::string& id() const { return options_.id; }
  // Of all lives.
  Totals totals() const;

  // --- For checks. Null while it does not serve.
  const TargetEngine* engine() const;

 private:
  struct Life;
  class Call;

  void Start();
  void StartLeader();
  void StartFollower(int rank);
  void BreakIfLost();
  void Serve();
  void Kick(TimePoint when);
  void Turn();
  void CheckTurn();
  void Assign(const v1::HeartbeatResponse& response);
  v1::HeartbeatRequest Status() const;
  // The leader's process is over once the event under way is.
  void Exit();
  void TakeTotals();

  World& world_;
  Process*& router_;
  const Options options_;
  Random random_;
  std::vector<Process*> ranks_;
  std::unique_ptr<Supervision> owned_supervision_;
  Supervision& supervision_;
  std::unique_ptr<Life> life_;
  double slowness_ = 1;
  Totals past_;
};

}  // namespace outrider::simulation
