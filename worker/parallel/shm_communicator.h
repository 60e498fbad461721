// Communicators for ranks that are processes of one host, over a memory file (memfd) that the leader creates, seals in
// size and passes over an abstract unix socket. Nothing has a name in a file system, so nothing is left behind however
// the processes end.
//
// With the memory every rank gets the ends of pipes, one pipe a rank, whose writing end only that rank holds: when it
// dies, by whatever cause, the kernel closes it and all others see the hang-up (within kLivenessInterval of a wait).
//
// Attaching is for processes of the leader's user only; whoever else connects, or speaks nonsense, is turned away with
// a log line and can not disturb the group: at most kMaxPendingAttaches connections are held, the oldest goes first.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/region_communicator.h"  // RegionOptions

namespace outrider {

inline constexpr int kMaxPendingAttaches = 64;

// The leader's side: a listening socket, then a communicator.
//
// Thread safety: none; `socket_name` from any thread.
class ShmRendezvous {
 public:
  // epoch: those who attach must name the same. Errors: INVALID_ARGUMENT (world_size, chunk_bytes), RESOURCE_EXHAUSTED
  // (memory, files), INTERNAL with the system's words.
  static absl::StatusOr<std::unique_ptr<ShmRendezvous>> Listen(int world_size, uint64_t epoch,
                                                               RegionOptions options = {});
  virtual ~ShmRendezvous() = default;

  // What followers pass to AttachShm; begins with '@' (abstract).
  virtual const std::string& socket_name() const = 0;

  // Waits until ranks 1..world_size-1 have attached, then returns rank 0's communicator. May be called once.
  // Errors: DEADLINE_EXCEEDED naming the ranks that are missing; UNAVAILABLE naming an attached rank that died;
  // CANCELLED after Cancel.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> AwaitRanks(Duration timeout) = 0;

  // Ends AwaitRanks. Thread safe.
  virtual void Cancel() = 0;
};

// A follower's side; 1 <= rank < world_size. `timeout` bounds the exchange with the leader.
// Errors: UNAVAILABLE (nobody listens, the leader went), DEADLINE_EXCEEDED, FAILED_PRECONDITION with the leader's
// reason (epoch, world size, rank taken, another user), DATA_LOSS (a region that is not what was agreed).
absl::StatusOr<std::unique_ptr<Communicator>> AttachShm(const std::string& socket_name, int rank, int world_size,
                                                        uint64_t epoch, Duration timeout, RegionOptions options = {});

}  // namespace outrider
