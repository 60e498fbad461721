// RegionCommunicator: collectives over one region of memory that all ranks see, be they threads or processes.
//
// The region holds, for each rank, a counter of rounds and two buffers, and two buffers for results:
//
//   header | slots [world_size] | parts [2][world_size][chunk_bytes] | sums [2][chunk_bytes]
//
// A collective is a run of rounds. In round s a rank writes its part to parts[s % 2][rank], publishes s in its counter,
// waits for the counters it needs, and reads. A counter at s says that its rank has read all it needs of rounds before
// s; so whoever sees every counter at s - 1 may overwrite the buffers of round s - 2, and one wait a round is enough.
//
// AllReduceSum of few elements takes one round: each rank writes its whole part and sums everyone's. Of many, a chunk a
// round, in a pipeline: ranks sum one segment each of chunk k into sums, while they copy the others' segments of chunk
// k - 1 and write chunk k + 1. Either way element i is ((x0 + x1) + x2) + ..., so all ranks get the same bits.
//
// Waits spin briefly, yield, then sleep in a futex on the counter. A sleeper wakes every kLivenessInterval to see
// whether a peer died, the group was aborted, or the bound has passed; it ends all of them by Abort.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "worker/parallel/communicator.h"

namespace outrider {

inline constexpr int kMaxRanks = 32;

struct RegionOptions {
  // Longest wait for a peer within a collective; then the group is aborted, naming it.
  Duration timeout = std::chrono::seconds(10);
  // How long a wait stays awake before it sleeps. Trades CPU time for the 5..50 us that waking a sleeper costs.
  Duration spin = std::chrono::microseconds(50);
  // Bytes of a buffer of a rank; a multiple of 4096. 64 KiB keeps a group of two within a second-level cache.
  int64_t chunk_bytes = 64 << 10;
};

// How often a sleeping rank looks around; a dead peer is known within it.
inline constexpr Duration kLivenessInterval = std::chrono::milliseconds(100);

// The region's bytes for a group. REQUIRES: options.chunk_bytes valid, 1 <= world_size <= kMaxRanks.
int64_t RegionBytes(int world_size, int64_t chunk_bytes);

// Thread safety: as Communicator.
class RegionCommunicator final : public Communicator {
 public:
  // Whether the rank is known to be dead. Called by a waiting rank, every kLivenessInterval at most.
  using IsDead = std::function<bool(int rank)>;

  // `region`: initialised; owned, the memory goes when all its owners have gone. `is_dead` may be null.
  RegionCommunicator(std::shared_ptr<void> region, int rank, int world_size, RegionOptions options, IsDead is_dead);
  // Tells the others that this rank has left.
  ~RegionCommunicator() override;
  RegionCommunicator(const RegionCommunicator&) = delete;
  RegionCommunicator& operator=(const RegionCommunicator&) = delete;

  // Makes zeroed memory of RegionBytes a region of the group. Once, before anyone attaches.
  static void Initialise(void* region, int world_size, int64_t chunk_bytes);
  // FAILED_PRECONDITION naming what differs if `region` is not one of this build for such a group.
  static absl::Status Check(const void* region, int world_size, int64_t chunk_bytes);

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  absl::Status AllReduceSum(float* data, int64_t count) override;
  absl::Status AllGather(const void* send, const int64_t* bytes_of_rank, void* receive) override;
  absl::Status Broadcast(void* data, int64_t bytes, int root) override;
  absl::Status AwaitPeer(int peer) override;
  void Abort(const char* reason) override;

 private:
  struct Header;
  struct Slot;
  enum class Bound { kTimeout, kNone };

  char* Part(uint32_t round, int rank) const;
  float* Sums(uint32_t round) const;
  // Until the buffers of the coming round may be written: all have read the round before the last.
  absl::Status BeginRound();
  // Starts the coming round for the others: what this rank wrote for it is theirs to read.
  void Publish();
  absl::Status WaitFor(int peer, uint32_t round, Bound bound);
  absl::Status WaitForAll(uint32_t round);
  absl::Status WaitAsleep(int peer, uint32_t round, Bound bound);
  // Why the group is over for a rank that waits for `peer`, or OK.
  absl::Status LookAround(int peer, uint32_t round);
  absl::Status Die(const std::string& reason);
  absl::Status AbortedStatus() const;
  absl::Status AllReduceSmall(float* data, int64_t count);
  absl::Status AllReduceLarge(float* data, int64_t count);

  const std::shared_ptr<void> region_;
  const int rank_;
  const int world_size_;
  const RegionOptions options_;
  const IsDead is_dead_;
  Header* const header_;
  Slot* const slots_;
  char* const parts_;
  char* const sums_;
  uint32_t round_ = 0;  // last published; the collectives' thread only
};

}  // namespace outrider
