// SimulatedDraft is a draft worker: the real Drafter over a fake draft model, with events in place of its thread and of
// worker/rpc/draft_service. It can be made to lie: to say what a hostile, broken or confused peer might.
//
// Thread safety: none.
#pragma once

#include <memory>
#include <string>

#include "tests/simulation/draft_stream.h"
#include "tests/simulation/fake_model.h"
#include "tests/simulation/world.h"
#include "worker/engine/drafter.h"

namespace outrider::simulation {

class SimulatedDraft {
 public:
  struct Options {
    std::string id;
    Drafter::Options drafter;
    FakeModel::Options model;
    double start_ms = 50;
    Duration drain_max = std::chrono::seconds(3);
  };
  SimulatedDraft(World& world, Process*& router, Options options);
  ~SimulatedDraft();

  Process& process() { return process_; }
  Supervision& supervision() { return supervision_; }
  // SIGTERM.
  void Terminate();
  // Share of proposals that are spoiled; 0: none.
  void set_lies(double share) { lies_ = share; }
  void set_slowness(double factor);

  // Null while it does not run.
  const Drafter* drafter() const;
  int64_t num_lies() const { return num_lies_; }

 private:
  struct Life;
  struct Client;

  void Start();
  void Serve();
  void Kick(TimePoint when);
  void Turn();
  void Accept(StreamPtr stream);
  // The drain is over.
  void ExitIfDrained();
  // What a client's proposals become.
  void Spoil(v1::DraftEventBatch& batch);
  v1::HeartbeatRequest Status() const;

  World& world_;
  Process*& router_;
  const Options options_;
  Random random_;
  Process& process_;
  Supervision supervision_;
  std::unique_ptr<Life> life_;
  double lies_ = 0;
  double slowness_ = 1;
  int64_t num_lies_ = 0;
};

}  // namespace outrider::simulation
