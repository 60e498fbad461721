// World is what the parts of a simulated cluster share: time, chance, the network, the trace, who lives, and the first
// thing that was seen to be wrong.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/restart_policy.h"
#include "proto/cluster.pb.h"
#include "tests/simulation/event_queue.h"
#include "tests/simulation/random.h"
#include "tests/simulation/sabotage.h"
#include "tests/simulation/simulated_network.h"
#include "tests/simulation/trace.h"

namespace outrider::simulation {

class World {
 public:
  World(uint64_t seed, Sabotage sabotage, const Network::Options& network, std::ostream* trace_out)
      : trace(trace_out), random(seed), network(queue, trace, Random(seed).Fork(1), network), sabotage(sabotage) {}

  // --- Processes. `on_ended` drops what the process knew; not called while the process's own code runs.
  Process& AddProcess(const std::string& name, std::function<void()> on_ended);
  const std::vector<std::unique_ptr<Process>>& processes() const { return processes_; }
  void Start(Process& process);
  // kill -9, or the process ended itself; `silent`: with its machine.
  void End(Process& process, bool silent = false);
  void Stop(Process& process);
  void Continue(Process& process);

  // --- Addresses name a process in one life.
  std::string AddressOf(const Process& process) const { return absl::StrCat(process.name, "#", process.life); }
  std::pair<Process*, uint64_t> Find(const std::string& address) const;

  // --- What was seen.
  template <typename... Words>
  void Fail(const Words&... words) {
    if (failure.has_value()) return;
    failure = absl::StrCat("at ", ToMillis(queue.now() - TimePoint{}), " ms: ", words...);
    trace.Note(queue.now(), "checker", *failure);
  }
  void Say(const Process& process, const char* what, std::initializer_list<Trace::Field> fields = {}) {
    trace.Add(queue.now(), process.index, process.name, what, fields);
  }

  EventQueue queue;
  Trace trace;
  Random random;
  Network network;
  const Sabotage sabotage;
  std::optional<std::string> failure;
  // Something befell the router, or its links to clients, that no stream survives.
  bool router_may_break_streams = false;

 private:
  std::vector<std::unique_ptr<Process>> processes_;
  std::vector<std::function<void()>> on_ended_;  // by process
};

// What starts the processes of a unit again together when one of them ends (cli/supervisor.h), with RestartPolicy.
class Supervision {
 public:
  Supervision(World& world, std::vector<Process*> processes, std::function<void()> start)
      : world_(world), processes_(std::move(processes)), start_(std::move(start)) {}

  void StartNow();
  // Its machine is gone: nothing is started until StartNow.
  void Disown() { ++generation_; }
  // To be called when one of the processes ended.
  void OnEnded();
  int num_starts() const { return num_starts_; }

 private:
  World& world_;
  const std::vector<Process*> processes_;
  const std::function<void()> start_;
  RestartPolicy policy_;
  TimePoint started_{};
  bool ending_ = false;
  int num_starts_ = 0;
  uint64_t generation_ = 0;  // of what is planned
};

// A worker's heartbeats (worker/rpc/registration_client.h): one call at a time, the next after the interval that the
// router asked for. Lives as long as its process's life.
class Heartbeats {
 public:
  Heartbeats(World& world, Process& process, Process& router, std::function<v1::HeartbeatRequest()> status,
             std::function<void(const v1::HeartbeatResponse&)> on_response)
      : world_(world),
        process_(process),
        router_(router),
        status_(std::move(status)),
        on_response_(std::move(on_response)) {
    Beat();
  }
  // Now, as when draining begins.
  void Hurry();

 private:
  void Beat();

  World& world_;
  Process& process_;
  Process& router_;
  const std::function<v1::HeartbeatRequest()> status_;
  const std::function<void(const v1::HeartbeatResponse&)> on_response_;
  uint64_t turn_ = 0;
  bool open_ = false;
  bool hurry_ = false;
};

}  // namespace outrider::simulation
