// Which draft workers serve which group: those with the group's tokenizer, spread by what a draft costs, changed as
// little as possible.
//
// What a draft of worker w costs group g, in ms: the round trip that g measured (unknown: none) + the time that w's
// queue takes + kDraftBaseMs, times the groups that share w. So equal workers are shared evenly, and one that is twice
// as slow gets half the groups.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "router/cluster_snapshot.h"

namespace outrider::router {

// Draft workers' ids by group id.
using DraftPairing = std::map<std::string, std::vector<std::string>>;

// What a draft takes at least; differences of cost that are small against it count for little. A draft of the shipped
// model takes 5 to 20 ms on a core.
inline constexpr double kDraftBaseMs = 5;
// A pair moves only to where it costs less than this part of what it costs now: costs are measured and waver.
inline constexpr double kPairingGain = 1 / 1.3;

// Gives each group up to `num_per_group` different draft workers whose tokenizer fingerprint equals the group's and
// that are not draining. Pairs of `current` stay but for at most `max_moves`, the most gainful first. Pure: equal
// arguments give equal pairings, and pairing again what was paired changes nothing.
DraftPairing PairDraftWorkers(const ClusterSnapshot& cluster, const DraftPairing& current, int num_per_group,
                              int max_moves);

}  // namespace outrider::router
