// The faults that are planted on purpose, to see that the simulation finds them: each is a wrong that the project's
// code does not do, done by the simulated part that stands between two real ones.
#pragma once

#include <array>
#include <cstdint>

namespace outrider::simulation {

enum class Sabotage : uint8_t {
  kNone,
  kAcceptsDraftUnverified,   // ranks commit a draft's first token whatever the target says
  kSkipsRollback,            // a step after a rejection goes on behind the rejected tokens
  kReplaysWithoutDelivered,  // a replayed attempt does not say what the client has
  kTakesStaleFrames,         // what an earlier attempt's group says is taken for the present one's
  kEndsTwice,                // a choice's end is sent to the client twice
  kLeaksBlock,               // a cancelled request leaves a KV block behind
  kCancelledKeepsRunning,    // a group does not hear of cancels
  kRetriesWithoutBound,      // lost attempts are not counted
  kChargeNotReleased,        // what a cancelled attempt was charged stays charged
  kQueueBoundIgnored,        // the router queues whatever comes
  kPenaltyCountsLost,        // a replayed attempt takes delivered tokens for prompt
  kDrainDropsStreams,        // SIGTERM ends a router's open streams
  kSilentRankUnnoticed,      // nobody looks whether ranks are silent
  kIgnoresLostGroups,        // a group whose lease ran out is not given up
  kSilenceIsDeath,           // a lease that ran out counts as the death of a group
};

struct NamedSabotage {
  Sabotage sabotage;
  const char* name;      // for --sabotage
  const char* scenario;  // where it shows
};

inline constexpr std::array<NamedSabotage, 15> kSabotages = {{
    {Sabotage::kAcceptsDraftUnverified, "accepts-draft-unverified", "lying_drafts"},
    {Sabotage::kSkipsRollback, "skips-rollback", "lying_drafts"},
    {Sabotage::kReplaysWithoutDelivered, "replays-without-delivered", "group_crash"},
    {Sabotage::kTakesStaleFrames, "takes-stale-frames", "partition"},
    {Sabotage::kEndsTwice, "ends-twice", "calm"},
    {Sabotage::kLeaksBlock, "leaks-block", "vanishing_clients"},
    {Sabotage::kCancelledKeepsRunning, "cancelled-keeps-running", "vanishing_clients"},
    {Sabotage::kRetriesWithoutBound, "retries-without-bound", "crash_loop"},
    {Sabotage::kChargeNotReleased, "charge-not-released", "vanishing_clients"},
    {Sabotage::kQueueBoundIgnored, "queue-bound-ignored", "overload"},
    {Sabotage::kPenaltyCountsLost, "penalty-counts-lost", "group_crash"},
    {Sabotage::kDrainDropsStreams, "drain-drops-streams", "rolling_restart"},
    {Sabotage::kSilentRankUnnoticed, "silent-rank-unnoticed", "rank_faults"},
    {Sabotage::kIgnoresLostGroups, "ignores-lost-groups", "silent_loss"},
    {Sabotage::kSilenceIsDeath, "silence-is-death", "partition"},
}};

}  // namespace outrider::simulation
