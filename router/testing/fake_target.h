// FakeTarget is a target group for tests: the Target service and heartbeats of a group, without a model. What it
// generates is a pure function of the prompt, the output so far and the lane, as a real group's is.
//
// It makes one token a lane a step. By default steps follow each other at once; with `hold` each waits for Permit.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/ids.h"
#include "base/mutex.h"
#include "proto/cluster.grpc.pb.h"
#include "proto/target.grpc.pb.h"

namespace outrider::router {

class FakeTarget final : public v1::Target::Service {
 public:
  struct Options {
    std::string id = "group-0";
    uint64_t incarnation = 1;
    std::string router_address;
    std::string numerics_id = "numerics-0";
    int max_model_len = 4096;
    int max_sequences = 8;
    // The next token of a lane after `output`.
    std::function<TokenId(const std::vector<TokenId>& prompt, const std::vector<TokenId>& output, uint32_t lane)>
        next_token;
    int tokens_per_event = 1;  // all but the last as if drafted
    bool hold = false;
    // The stream breaks once a request has so many new output tokens; -1: never.
    int break_after_tokens = -1;
    // Each lane fails so, instead of its first token. 0: not.
    uint32_t fail_code = 0;
    // The same instead of its token with this index.
    int fail_at_token = 0;
    // What its events say of its life, after a greeting that says nothing of it; 0: nothing.
    uint64_t events_incarnation = 0;
  };
  // Serves and sends heartbeats until Stop.
  explicit FakeTarget(Options options);
  ~FakeTarget() override;

  // Ends everything at once, as a killed process does.
  void Stop();
  void SetServing(bool serving) { serving_ = serving; }
  void SetDraining(bool draining) { draining_ = draining; }
  // Sends no heartbeats, as a stopped process.
  void SetSilent(bool silent) { silent_ = silent; }
  // Lets a held group make so many steps more.
  void Permit(int num_steps);
  // As break_after_tokens, from now on.
  void BreakStreamNow();

  // Waits (20 s at most) until `predicate` holds of what was received so far; false if it never did.
  struct Received {
    std::vector<v1::Submit> submits;
    std::vector<v1::Cancel> cancels;
    std::vector<v1::StopAt> stop_ats;
    int num_streams = 0;
    int num_streams_ended = 0;
    int num_model_fetches = 0;
    v1::HeartbeatResponse last_heartbeat;
    int num_heartbeats = 0;
    grpc::Status last_heartbeat_status;
  };
  bool Await(const std::function<bool(const Received&)>& predicate);
  Received received();

  grpc::Status Serve(grpc::ServerContext* context,
                     grpc::ServerReaderWriter<v1::TargetEvents, v1::TargetCommands>* stream) override;
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::ModelDescription* response) override;

 private:
  struct LaneState {
    v1::Submit submit;
    uint32_t lane = 0;
    std::vector<TokenId> prompt;
    std::vector<TokenId> output;
    size_t num_given = 0;  // of output, by the router
    uint32_t stop_at = 0;
  };
  using LaneKey = std::pair<uint64_t, uint32_t>;
  struct Stream {
    std::map<LaneKey, LaneState> lanes;
    bool met = false;  // a first message came
    bool closed = false;
  };
  void RunSteps(grpc::ServerContext* context, grpc::ServerReaderWriter<v1::TargetEvents, v1::TargetCommands>* stream,
                Stream* state);
  void Apply(const v1::TargetCommand& command, Stream* state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // False if the stream is to break.
  bool Step(Stream* state, v1::TargetEvents* events) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SendHeartbeats();

  const Options options_;
  std::atomic<bool> serving_{true};
  std::atomic<bool> draining_{false};
  std::atomic<bool> silent_{false};
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::thread heartbeats_;

  Mutex mu_;
  CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  int num_permits_ ABSL_GUARDED_BY(mu_) = 0;
  bool break_now_ ABSL_GUARDED_BY(mu_) = false;
  Received received_ ABSL_GUARDED_BY(mu_);
};

// A draft worker's heartbeat, sent once.
grpc::Status SendDraftHeartbeat(const std::string& router_address, const std::string& id,
                                const std::string& tokenizer_fingerprint);

}  // namespace outrider::router
