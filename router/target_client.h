// TargetClient speaks to one target group, in one incarnation: the only owner of a channel and stubs to it.
//
// One Serve stream carries every request. Commands queued while a write is under way go out together as one message;
// one reader hands events to the attempt they belong to, in order. When the stream ends, each attempt on it is told
// once, and the stream is opened again after a back-off, until Close.
//
// Bounds: a message has at most kMaxBatchBytes of commands (one greater command travels alone); commands wait only for
// attempts that the routing policy admitted.
//
// Thread safety: all methods, from any thread. Listeners are called without a lock held, one event at a time.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/target.grpc.pb.h"
#include "router/cluster_snapshot.h"  // StaleReason
#include "security/link_security.h"

namespace outrider::router {

// Commands a message. Well under the 16 MiB that a group takes.
inline constexpr size_t kMaxBatchBytes = 4 << 20;

// An attempt, as its stream sees it.
class AttemptListener {
 public:
  virtual ~AttemptListener() = default;
  // May change what it is given.
  virtual void OnTargetEvent(v1::TargetEvent& event) = 0;
  // The stream ended; nothing more comes for `request_id`.
  virtual void OnTargetLost(uint64_t request_id, const absl::Status& status) = 0;
  // The group drains, and another has room. The attempt goes on unless it is cancelled.
  virtual void OnHandOver(uint64_t request_id) = 0;
};

// Counts calls that are open, so that whoever owns what their callbacks use can wait for the last.
class CallGate {
 public:
  void Enter();
  void Leave();
  void AwaitNone();

 private:
  Mutex mu_;
  CondVar none_;
  int num_open_ ABSL_GUARDED_BY(mu_) = 0;
};

class TargetClient : public std::enable_shared_from_this<TargetClient> {
 public:
  struct Options {
    std::string group_id;
    // The life of the group that is meant; 0: any. A group in another one refuses the stream, and what it says is not
    // taken.
    uint64_t incarnation = 0;
    std::string address;
    // How to show who this is; outlives this. Null: openly.
    const LinkSecurity* security = nullptr;
    // HTTP/2 keepalive, also while nothing is asked of the group: one whose machine is gone, or to which the way is
    // cut, has lost its stream after their sum at the latest. Longer than a lease on purpose: what a stopped process
    // says after half a minute is still refused and counted (Fence), not lost.
    Duration keepalive_time = std::chrono::seconds(20);
    Duration keepalive_timeout = std::chrono::seconds(20);
    const Clock* clock = nullptr;  // outlives this
    CallGate* gate = nullptr;      // outlives this
    // The stream is up (the group has answered the first message) or down. Called without a lock held.
    std::function<void(bool connected)> on_connected;
    // Its host says that nobody listens at `address`: the process has ended. Called without a lock held; may be empty.
    std::function<void()> on_gone;
    // Events were refused. Called without a lock held.
    std::function<void(StaleReason reason, int num_events)> on_stale;
  };
  static std::shared_ptr<TargetClient> Create(Options options);
  ~TargetClient();

  const std::string& group_id() const { return options_.group_id; }
  const std::string& address() const { return options_.address; }

  // Opens the stream if it is down and its back-off has passed. To be called a few times a second.
  void KeepOpen();

  // Sends `submit` and lets `listener` hear what comes for its request_id. False if the stream is down: nothing was
  // done.
  bool Submit(v1::Submit submit, std::shared_ptr<AttemptListener> listener);
  // Ends the attempt: its listener hears nothing more. Of an unknown request: nothing happens.
  void Cancel(uint64_t request_id);
  // As Cancel, where the group has ended the attempt by itself.
  void Forget(uint64_t request_id);
  void StopAt(uint64_t request_id, uint32_t lane, uint32_t num_output_tokens);

  // Fetches the model's description. `done` is called once, from any thread, also after Close.
  void FetchModel(std::function<void(absl::StatusOr<v1::ModelDescription>)> done);

  // Asks attempts of so many lanes, or the last one more than that, to go on elsewhere.
  void HandOver(int64_t num_lanes);

  // The group is given up: attempts are told that they are lost, and nothing is sent or taken any more. The stream
  // stays until the group speaks again (a process that was stopped), so that it is seen and counted, and is ended then.
  void Fence();
  // Ends the stream for good. Attempts on it are told.
  void Close();
  // After Fence or Close: no stream is open any more.
  bool ended() const;

 private:
  class ServeStream;
  explicit TargetClient(Options options);

  void Enqueue(v1::TargetCommand command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnStreamWritten(bool ok);
  void OnStreamEvents(v1::TargetEvents& events);
  void OnStreamReadEnded();
  void OnStreamDone(const absl::Status& status);
  absl::Status LostStatus(const absl::Status& status) const;

  const Options options_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Target::Stub> stub_;

  struct Attempt {
    std::shared_ptr<AttemptListener> listener;
    int num_lanes = 0;
  };

  mutable Mutex mu_;
  bool fenced_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  // Set from the moment a stream is started until its end is known.
  std::shared_ptr<ServeStream> stream_ ABSL_GUARDED_BY(mu_);
  bool connected_ ABSL_GUARDED_BY(mu_) = false;
  bool writable_ ABSL_GUARDED_BY(mu_) = false;  // writes may be started
  bool write_in_flight_ ABSL_GUARDED_BY(mu_) = false;
  v1::TargetCommands in_flight_ ABSL_GUARDED_BY(mu_);
  struct Batch {
    v1::TargetCommands commands;
    size_t num_bytes = 0;
  };
  std::deque<Batch> queued_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint64_t, Attempt> attempts_ ABSL_GUARDED_BY(mu_);
  TimePoint open_after_ ABSL_GUARDED_BY(mu_){};
  Duration backoff_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<grpc::ClientContext*> fetches_ ABSL_GUARDED_BY(mu_);
  bool told_failure_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace outrider::router
