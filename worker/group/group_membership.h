// GroupMembership is the leader's view of its group: who is in, whether all are, and when and why it broke.
//
// An epoch begins when all ranks are in and ends with the first thing that goes wrong; nobody ever joins a running
// epoch. What is refused at the door (a wrong model, a wrong rank) breaks nothing: the leader goes on waiting.
//
// PURE: no threads, no clock. Thread safety: none; its owner locks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "worker/group/step_progress.h"

namespace outrider {

// What a follower says of itself when it joins (FollowerHello).
struct RankHello {
  int rank = 0;
  int world_size = 0;
  uint64_t incarnation = 0;  // of its process; for the log
  std::string numerics_id;
  int64_t num_kv_blocks_max = 0;  // blocks it could hold
};

class GroupMembership {
 public:
  struct Options {
    uint64_t epoch = 0;
    int world_size = 1;
    std::string numerics_id;        // the leader's
    int64_t num_kv_blocks_max = 0;  // the leader's
    // A rank that has said nothing for so long is lost: its process stands still. Followers speak about every 100 ms.
    Duration silence_max = std::chrono::seconds(2);
    // A rank, the leader too, whose steps have not advanced for so long while one is under way is lost: its work stands
    // still.
    Duration step_max = std::chrono::seconds(10);
  };

  // REQUIRES: world_size >= 1.
  explicit GroupMembership(Options options);

  // Lets a rank in, or says why not; a refusal changes nothing.
  // Errors: INVALID_ARGUMENT (rank outside [1, world_size), no blocks), FAILED_PRECONDITION (world size or numerics_id
  // differs, both named), ALREADY_EXISTS (the rank is in), UNAVAILABLE (the group is broken; another will come).
  absl::Status Join(const RankHello& hello, TimePoint now);

  // A sign of life of a rank that is in, the leader's own included; `last_step` never goes back. Of others: ignored.
  void Progress(int rank, const StepProgress::Snapshot& progress, TimePoint now);

  // A rank that was in is gone: breaks the group. `why` is a clause such as "its stream ended".
  void Leave(int rank, absl::string_view why);

  // Breaks the group. Of several reasons the first stands.
  void Break(absl::string_view reason);

  // Breaks the group if a rank has been silent for longer than silence_max or in a step for longer than step_max. To be
  // called a few times a silence_max: after a longer pause this process itself stood still, and nobody is judged by
  // what could not be heard.
  void Tick(TimePoint now);

  uint64_t epoch() const { return options_.epoch; }
  int world_size() const { return options_.world_size; }
  // All ranks are in (they may have gone since; see broken).
  bool complete() const { return num_joined_ == options_.world_size; }
  bool broken() const { return broken_; }
  // OK, or UNAVAILABLE with the reason it broke.
  absl::Status status() const;
  // Ranks not in yet, such as "1, 3"; empty when complete.
  std::string MissingRanks() const;
  // The least over the ranks that are in, the leader included.
  int64_t num_kv_blocks() const;
  // REQUIRES: 0 <= rank < world_size.
  uint64_t last_step(int rank) const { return ranks_[rank].steps.last_step; }
  Duration silence(int rank, TimePoint now) const {
    return rank > 0 && ranks_[rank].joined ? now - ranks_[rank].heard : Duration::zero();
  }

 private:
  struct Rank {
    bool joined = false;
    int64_t num_kv_blocks_max = 0;
    StepProgress::Snapshot steps;
    TimePoint heard{};     // rank 0 is not judged by it
    TimePoint advanced{};  // its steps last changed, or none was under way
  };

  const Options options_;
  std::vector<Rank> ranks_;  // [world_size]; entry 0 is the leader
  int num_joined_ = 1;
  std::optional<TimePoint> last_tick_;
  bool broken_ = false;
  std::string reason_;
};

}  // namespace outrider
