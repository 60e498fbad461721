// FaultInjector does to a simulated cluster what its scenario says, at instants and to victims that the seed draws, and
// ends what it began.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "tests/simulation/scenario.pb.h"
#include "tests/simulation/simulated_draft.h"
#include "tests/simulation/simulated_router.h"
#include "tests/simulation/simulated_target.h"
#include "tests/simulation/world.h"

namespace outrider::simulation {

// What there is to befall. All outlive the injector.
struct Cluster {
  SimulatedRouter* router = nullptr;
  std::vector<std::unique_ptr<SimulatedTarget>> targets;
  std::vector<std::unique_ptr<SimulatedDraft>> drafts;
  Process* clients = nullptr;
};

class FaultInjector {
 public:
  FaultInjector(World& world, Cluster& cluster, Random random) : world_(world), cluster_(cluster), random_(random) {}

  // Draws when and whom; `start` is the workload's.
  void Plan(const Scenario& scenario, TimePoint start);
  // To be called after each event.
  void AfterEvent() {
    while (!by_event_.empty() && world_.queue.num_events() >= by_event_.back().first) {
      const auto begin = std::move(by_event_.back().second);
      by_event_.pop_back();
      begin();
    }
  }
  // Everything has happened, and has ended.
  bool done() const { return num_pending_ == 0; }
  TimePoint last_end() const { return last_end_; }
  int num_faults() const { return num_faults_; }

 private:
  struct Victim {
    Process* process = nullptr;
    SimulatedTarget* target = nullptr;
    SimulatedDraft* draft = nullptr;
    bool is_router = false;
  };
  std::vector<Victim> VictimsOf(Fault::Role role);
  void Begin(const Fault& fault);
  void BeginOn(const Fault& fault, Victim victim);
  void EndAfter(Duration duration, std::function<void()> end);
  Process* Peer(const Fault& fault, const Victim& victim);
  Duration Draw(const Range& range) { return random_.Within(range.min(), range.max()); }

  World& world_;
  Cluster& cluster_;
  Random random_;
  std::vector<std::pair<int64_t, std::function<void()>>> by_event_;  // the next one last
  int num_pending_ = 0;
  int num_faults_ = 0;
  TimePoint last_end_{};
};

}  // namespace outrider::simulation
