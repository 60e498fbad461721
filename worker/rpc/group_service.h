// LeaderGroup is rank 0's side of a target group: it lets the followers in (group.proto, Join), tells them how
// to exchange (shared memory, or streams where they are on several hosts), starts the epoch when all are there, and
// says when and why it ended.
//
// A leader's life:
//   ASSIGN_OR_RETURN(auto group, LeaderGroup::Create({.world_size = 2, .numerics_id = model->numerics_id(), ...}));
//   start the gRPC server with group->service() among its services
//   RETURN_IF_ERROR(group->WaitForRanks(join_timeout));
//   make the runner with group->communicator() and group->num_kv_blocks()
//   GroupBackend backend(*runner, group->communicator());     // worker/group/step_broadcast.h
//   ... and in the end, if all went well:
//   group->ExpectEnd();
//   RETURN_IF_ERROR(backend.Stop());
//   group->Stop();  and only then the server, whose end would be the epoch's
//
// A group of one rank is a group too: nothing to wait for.
//
// What ends the epoch (a rank's stream ends, a rank falls silent, a step does not end) aborts the communicator, ends
// all streams, and calls on_broken; by default that ends the process (worker/group/end_of_epoch.h). Before all ranks
// are in, it also ends WaitForRanks.
#pragma once

#include <grpcpp/impl/codegen/service_type.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "worker/group/end_of_epoch.h"
#include "worker/group/step_progress.h"
#include "worker/parallel/communicator.h"

namespace outrider {

// Thread safety: all methods from any thread, WaitForRanks once.
class LeaderGroup {
 public:
  struct Options {
    int world_size = 1;
    std::string numerics_id;        // ranks must have the same
    int64_t num_kv_blocks_max = 0;  // blocks this rank could hold
    // Bound of a wait within a step, and of the time that a rank's step, the leader's too, may be under way.
    Duration step_timeout = std::chrono::seconds(10);
    // Bound of a follower's silence, idle or busy: its process stands still.
    Duration silence_max = std::chrono::seconds(2);
    // The leader's own steps, told to followers and watched like theirs; null: not told. Outlives the group.
    const StepProgress* progress = nullptr;
    // Called once, from a thread of gRPC: a follower was told to end, so the group should drain and stop. Optional.
    std::function<void(int rank)> on_leaving;
    // Called about every 100 ms from a thread of the group for each rank. Optional.
    std::function<void(int rank, uint64_t last_step, Duration silence)> on_tick;
    // Called once, from a thread of the group, when a running epoch or one that was being formed has ended.
    std::function<void(const std::string& reason)> on_broken = ExitAtEndOfEpoch;
  };

  // Errors: INVALID_ARGUMENT (world_size), RESOURCE_EXHAUSTED or INTERNAL (shared memory).
  static absl::StatusOr<std::unique_ptr<LeaderGroup>> Create(Options options);
  // REQUIRES: the gRPC server that has service() is gone.
  virtual ~LeaderGroup() = default;

  // To be registered on the leader's server; lives as long as this.
  virtual grpc::Service* service() = 0;

  // Waits until all ranks have joined and attached, then starts the epoch.
  // Errors: DEADLINE_EXCEEDED naming the missing ranks; UNAVAILABLE when a rank that had joined was lost.
  virtual absl::Status WaitForRanks(Duration timeout) = 0;

  // REQUIRES: WaitForRanks returned OK.
  virtual Communicator& communicator() = 0;
  // The least over the ranks: blocks are 0 .. num_kv_blocks - 1 on all of them. REQUIRES: as communicator().
  virtual int64_t num_kv_blocks() const = 0;

  virtual uint64_t epoch() const = 0;
  // OK, or UNAVAILABLE with the reason the epoch ended.
  virtual absl::Status status() const = 0;

  // The group is about to end in order: that ranks go is no news from now on. Before GroupBackend::Stop, after which
  // followers leave at once.
  virtual void ExpectEnd() = 0;
  // Ends the epoch from here: aborts the communicator and ends all streams, without on_broken.
  virtual void Stop() = 0;
};

}  // namespace outrider
