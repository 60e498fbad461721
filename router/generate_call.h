// GenerateCall is the shell around a RequestLifecycle: one Generate call of a client, over whichever wire. It
// validates, turns text into ids, and carries out what the lifecycle commands: routing, sending attempts, writing to
// the client.
//
// Thread safety: the client's wire, the dispatcher and the target's stream each call from their own threads; one lock
// guards all.
#pragma once

#include <grpcpp/alarm.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/trace_context.h"
#include "proto/inference.pb.h"
#include "router/api_access.h"
#include "router/call_registry.h"
#include "router/client_stream.h"
#include "router/dispatcher.h"
#include "router/request_lifecycle.h"
#include "router/request_log.h"
#include "router/request_trace.h"
#include "router/router_metrics.h"
#include "router/target_client.h"
#include "tracing/tracer.h"

namespace outrider::router {

// What calls share; outlives them.
struct CallEnvironment {
  Dispatcher* dispatcher;
  RouterMetrics* metrics;
  CallRegistry* calls;
  RequestLog* request_log;
  const Clock* clock;
  ApiAccess* access;
  size_t max_stream_buffer_bytes;
  Tracer* tracer = nullptr;  // null: nothing is recorded
};

class GenerateCall final : public RoutedCall,
                           public AttemptListener,
                           public OpenCall,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // A call that waits for Arrive. It lives until OnDone and until everyone else is done with it; `stream` lives until
  // OnDone. `deadline` and `trace` are the client's.
  static std::shared_ptr<GenerateCall> Make(const CallEnvironment& environment, ClientStream* stream,
                                            std::optional<TimePoint> deadline, v1::GenerateRequest message,
                                            const std::optional<TraceContext>& trace = std::nullopt);
  ~GenerateCall() override;

  // --- The client's wire. What the client knows the request by:
  const std::string& request_name() const { return request_name_; }
  // Begins the call, once. `granted`: what the client may use of its key, which the call charges; an error, also one
  // of the request as it came, is what the client gets.
  void Arrive(absl::StatusOr<ApiAccess::Grant> granted);
  // The open write is done, or never will be.
  void OnWriteDone(bool ok);
  // The client cancelled, or its connection broke.
  void OnClientGone();
  // The wire is done with the call, which has ended: last of all, once.
  void OnDone();

  // RoutedCall.
  absl::StatusOr<RoutingNeeds> Prepare(std::shared_ptr<const ServedModel> model, int max_model_len) override;
  void Start(Placement placement) override;
  void Refuse(const absl::Status& status) override;

  // OpenCall.
  void EndWith(const absl::Status& status) override;
  std::string key_name() override;

  // AttemptListener.
  void OnTargetEvent(v1::TargetEvent& event) override;
  void OnTargetLost(uint64_t request_id, const absl::Status& status) override;
  void OnHandOver(uint64_t request_id) override;

 private:
  // What is to be done without the lock.
  struct AfterLock {
    std::optional<RouteCall> route;
    bool withdraw = false;
  };
  GenerateCall(const CallEnvironment& environment, ClientStream* stream, std::optional<TimePoint> deadline,
               v1::GenerateRequest message, const std::optional<TraceContext>& trace, CallId call_id);

  absl::Status PrepareLocked(std::shared_ptr<const ServedModel> model, int max_model_len)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Carries out commands, and those that follow from them.
  AfterLock Do(Commands commands) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Do(AfterLock after);
  // It was taken into the queue or started, for the first time.
  void NoteAdmitted();
  // False if the stream to the group is down.
  bool Submit(const SubmitAttempt& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Write(const WriteEvent& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WriteStart() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Tell(const Report& report) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StartTimer(Duration after) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // What is recorded of a command that was carried out. REQUIRES: trace_ != nullptr.
  void Trace(const Command& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndTrace() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const CallEnvironment environment_;
  ClientStream* const stream_;  // until OnDone
  const v1::GenerateRequest message_;
  const TimePoint arrival_;
  const std::string request_name_;
  const std::optional<TraceContext> trace_context_;  // that the call belongs to; empty: to none
  const std::string trace_id_;                       // for logs; empty: none
  std::atomic<bool> admitted_{false};

  Mutex mu_;
  std::shared_ptr<GenerateCall> self_ ABSL_GUARDED_BY(mu_);        // until OnDone
  RequestInput input_ ABSL_GUARDED_BY(mu_);                        // views into message_
  std::shared_ptr<const ServedModel> model_ ABSL_GUARDED_BY(mu_);  // of the lifecycle's request, once prepared
  RequestLifecycle lifecycle_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<RequestTrace> trace_ ABSL_GUARDED_BY(mu_);   // null: nothing is recorded
  std::shared_ptr<TargetClient> client_ ABSL_GUARDED_BY(mu_);  // of the last start
  ApiAccess::Grant grant_ ABSL_GUARDED_BY(mu_);
  v1::GenerateResponse response_ ABSL_GUARDED_BY(mu_);  // the stream's while a write is open
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<grpc::Alarm> timer_ ABSL_GUARDED_BY(mu_);
};

}  // namespace outrider::router
