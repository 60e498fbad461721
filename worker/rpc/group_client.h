// A follower's side of a target group: it joins the leader, attaches the shared memory or, from another
// host, opens its exchange, and lives as long as the epoch.
//
// RunFollowerRank is all of a rank above 0 but its model: join, make the backend, run what the leader sends. Leader and
// followers may start in any order, and a follower that meets a leader on its way out waits for the next.
//
// The end of the stream to the leader, or its silence, is the end of the epoch: the communicator is aborted, which ends
// RunFollower within its bound; if that takes longer than kFollowerGrace, on_stuck is called, which by default ends the
// process.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "security/link_security.h"
#include "worker/group/end_of_epoch.h"
#include "worker/group/step_progress.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/host_identity.h"
#include "worker/step/step_backend.h"

namespace outrider {

// A follower tells its progress so often.
inline constexpr Duration kProgressInterval = std::chrono::milliseconds(100);
// A step under way when the epoch ends may finish for so long.
inline constexpr Duration kFollowerGrace = std::chrono::seconds(1);

struct FollowerGroupOptions {
  std::string leader_address;  // HOST:PORT
  // How to show who this is; outlives this. Null: openly.
  const LinkSecurity* security = nullptr;
  int rank = 1;
  int world_size = 2;
  std::string numerics_id;
  int64_t num_kv_blocks_max = 0;  // blocks this rank could hold
  std::string host = HostIdentity();
  Duration join_timeout = std::chrono::seconds(120);
  // Bound of a wait within a step.
  Duration step_timeout = std::chrono::seconds(10);
  // Bound of the leader's silence, idle or busy: its process stands still.
  Duration silence_max = std::chrono::seconds(2);
  // Set while this rank was told to end: the leader is asked to drain and stop the group. Null: never. Outlives the
  // group.
  const std::atomic<bool>* leaving = nullptr;
  // Where this rank's steps are told; null: in a place of the group's own. Outlives the group.
  StepProgress* progress = nullptr;
  std::function<void(const std::string& reason)> on_stuck = ExitAtEndOfEpoch;
};

// Thread safety: all methods from any thread.
class FollowerGroup {
 public:
  // Returns when the epoch has started.
  // Errors: DEADLINE_EXCEEDED (no leader, or not all ranks came), FAILED_PRECONDITION or INVALID_ARGUMENT with the
  // leader's reason for refusing.
  static absl::StatusOr<std::unique_ptr<FollowerGroup>> Join(const FollowerGroupOptions& options);
  // Leaves the group.
  virtual ~FollowerGroup() = default;

  virtual Communicator& communicator() = 0;
  virtual int64_t num_kv_blocks() const = 0;
  virtual uint64_t epoch() const = 0;
  // What progress messages say; written by RunFollower.
  virtual StepProgress& progress() = 0;
  // No more is wanted of the group: its end is no news from now on.
  virtual void Finished() = 0;
};

// What a plan's ids must lie within on this rank, besides the group's blocks (worker/group/plan_codec.h).
struct FollowerLimits {
  int vocab_size = 0;
  int max_model_len = 0;
};

// Makes this rank's StepBackend once the group is complete; num_kv_blocks is the group's. The communicator outlives it.
using MakeBackend =
    std::function<absl::StatusOr<std::unique_ptr<StepBackend>>(Communicator& communicator, int64_t num_kv_blocks)>;

// Joins, makes the backend and runs it until the leader stops the group (OK) or the epoch ends (why). The caller exits,
// with a code other than 0 unless OK. A follower that is told to end says so (options.leaving) and goes on: its leader
// drains the group and then stops it.
absl::Status RunFollowerRank(const FollowerGroupOptions& options, const FollowerLimits& limits,
                             const MakeBackend& make_backend);

}  // namespace outrider
