// SimulatedRouter is a router: the real DispatchQueue (admission, registry, failure detector, policies) and the real
// RequestLifecycle of each call (relay, journal, retry policy), with events in place of Dispatcher's thread, of
// GenerateCall's and TargetClient's gRPC.
//
// Checked here: bounds of the queue and of what waits for a client, attempts a request, one end a call, what a group is
// charged is what its open attempts were charged.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "router/dispatch_queue.h"
#include "router/request_lifecycle.h"
#include "tests/simulation/target_link.h"
#include "tests/simulation/world.h"

namespace outrider::simulation {

inline constexpr char kInferenceService[] = "inference";

class SimulatedRouter {
 public:
  struct Options {
    router::DispatchQueue::Options queue;
    size_t max_stream_buffer_bytes = 4096;
    uint32_t heartbeat_interval_ms = 500;
    Duration drain_max = std::chrono::seconds(25);
    const text::Tokenizer* tokenizer = nullptr;
    // Beyond a lease: turns, and heartbeats that were under way.
    Duration lease_slack = std::chrono::seconds(1);
  };
  struct Totals {
    int64_t num_replays = 0;
    int64_t num_refusals = 0;
    int64_t num_stale_events = 0;
    int64_t num_hand_overs = 0;
    int64_t num_cuts = 0;
    int64_t num_queue_timeouts = 0;
  };
  SimulatedRouter(World& world, Options options);
  ~SimulatedRouter();

  Process& process() { return process_; }
  Supervision& supervision() { return supervision_; }
  // SIGTERM.
  void Terminate();
  // Null while it does not run.
  const router::DispatchQueue* queue() const;
  int num_open_calls() const;
  const Totals& totals() const { return totals_; }
  // How calls ended, as the router knows it: by the client's name for them.
  const std::map<std::string, absl::Status>& ended() const { return ended_; }
  // Nothing is open: everything that was taken is given back.
  void CheckIdle();

 private:
  struct Life;
  struct Call;

  void Start();
  void Serve();
  absl::StatusOr<Message> OnHeartbeat(const google::protobuf::Message& message);
  void Accept(StreamPtr stream);
  void Arrive(Call& call);
  absl::Status Prepare(Call& call);
  void Do(Call& call, router::Commands commands);
  bool Submit(Call& call, const router::SubmitAttempt& command);
  void Route(Call& call, router::RouteCall route);
  void Resolve(router::DispatchQueue::Decisions& decisions);
  void Kick();
  void TurnLater();
  void TakeTurn();
  void OnTargetEvent(uint64_t call_id, google::protobuf::Message& event);
  void OnHandOver(uint64_t call_id, uint64_t attempt_id);
  void Fence(std::shared_ptr<TargetLink> link);
  void OnTargetLost(uint64_t call_id, uint64_t attempt_id, const absl::Status& status);
  void Ended(uint64_t call_id);
  void ExitIfDrained();
  void EndCalls();
  void CheckBounds();
  void CheckLeases();
  void Exit();

  World& world_;
  const Options options_;
  Random random_;
  Process& process_;
  Supervision supervision_;
  std::unique_ptr<Life> life_;
  Totals totals_;
  std::map<std::string, absl::Status> ended_;
};

}  // namespace outrider::simulation
