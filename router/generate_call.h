// GenerateCall is one Generate call from arrival to end: the shell around a GenerateRelay. It validates, waits for a
// group, sends the attempt, feeds the relay with the group's events, writes to the client one message at a time, and
// sends the attempt again where a group was lost.
//
// What waits for the client is joined into one delta a choice, so a slow client gets fewer and larger messages. Beyond
// the relay's bound the stream is cut: the group is told at once, the client gets RESOURCE_EXHAUSTED once it reads, and
// if it does not within kLingerMax, the call is cancelled.
//
// Thread safety: gRPC, the dispatcher and the target's stream each call from their own threads; one lock guards all.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/inference.grpc.pb.h"
#include "router/call_registry.h"
#include "router/dispatcher.h"
#include "router/generate_relay.h"
#include "router/router_metrics.h"
#include "router/target_client.h"

namespace outrider::router {

// A client that reads nothing keeps a call that has ended for so long at most.
inline constexpr std::chrono::seconds kLingerMax(30);

// What calls share; outlives them.
struct CallEnvironment {
  Dispatcher* dispatcher;
  RouterMetrics* metrics;
  CallRegistry* calls;
  const Clock* clock;
  size_t max_stream_buffer_bytes;
};

class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                           public RoutedCall,
                           public AttemptListener,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // Begins the call; the reactor lives until gRPC and everyone else are done with it.
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Begin(const CallEnvironment& environment,
                                                               grpc::CallbackServerContext* context,
                                                               const v1::GenerateRequest* request);
  ~GenerateCall() override;

  // ServerWriteReactor.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // RoutedCall.
  absl::StatusOr<RoutingNeeds> Prepare(std::shared_ptr<const ServedModel> model, int max_model_len) override;
  void Start(Placement placement) override;
  void Refuse(const absl::Status& status) override;

  // AttemptListener.
  void OnTargetEvent(v1::TargetEvent& event) override;
  void OnTargetLost(uint64_t request_id, const absl::Status& status) override;

 private:
  GenerateCall(const CallEnvironment& environment, grpc::CallbackServerContext* context,
               const v1::GenerateRequest* request);

  void Route();
  // True if the call is to be routed again.
  bool StartAttempt(Placement placement);
  absl::StatusOr<RoutingNeeds> PrepareLocked(std::shared_ptr<const ServedModel> model, int max_model_len)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  RoutingNeeds NeedsNow() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status OnTokens(uint32_t lane, v1::Tokens& tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Each returns true if the call is to be routed again, once the lock is free.
  bool OnLaneFailed(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool LoseAttempt(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RouteAgain();

  // A lane's end came: its share of the load is let go.
  void EndLane() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Lets go of the group, telling it to stop if it has not ended the attempt itself.
  void ReleaseAttempt(bool cancel) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The call ends as `status` once what waits for the client is written, or at once.
  void Fail(const absl::Status& status, bool drop_pending) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Starts the next write, or Finish, if none is under way.
  void Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Linger() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const CallEnvironment environment_;
  grpc::CallbackServerContext* const context_;
  const v1::GenerateRequest* const message_;
  const TimePoint arrival_;
  const std::string request_name_;

  Mutex mu_;
  std::shared_ptr<GenerateCall> self_ ABSL_GUARDED_BY(mu_);  // until OnDone

  // --- The request, once prepared.
  RequestInput input_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const ServedModel> model_ ABSL_GUARDED_BY(mu_);
  ResolvedRequest request_ ABSL_GUARDED_BY(mu_);
  std::optional<GenerateRelay> relay_ ABSL_GUARDED_BY(mu_);

  // --- The attempt.
  uint32_t attempt_ ABSL_GUARDED_BY(mu_) = 0;     // from 1
  uint64_t attempt_id_ ABSL_GUARDED_BY(mu_) = 0;  // its request_id on the wire; 0: none is open
  std::optional<Placement> placement_ ABSL_GUARDED_BY(mu_);
  GroupLoad charged_ ABSL_GUARDED_BY(mu_);         // what the group is still charged for it
  std::string numerics_id_ ABSL_GUARDED_BY(mu_);   // of the last attempt
  std::string lost_because_ ABSL_GUARDED_BY(mu_);  // how the attempt before ended; empty: none did

  // --- The client.
  v1::GenerateResponse response_ ABSL_GUARDED_BY(mu_);
  ClientEvent event_ ABSL_GUARDED_BY(mu_);
  bool started_sent_ ABSL_GUARDED_BY(mu_) = false;
  bool write_in_flight_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;  // nothing more comes from groups
  absl::Status end_status_ ABSL_GUARDED_BY(mu_);
  bool finish_called_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<grpc::Alarm> linger_ ABSL_GUARDED_BY(mu_);
};

}  // namespace outrider::router
