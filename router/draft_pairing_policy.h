// Which draft workers serve which group: those with the group's tokenizer, spread evenly, changed as little as
// possible.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "router/cluster_snapshot.h"

namespace outrider::router {

// Draft workers' ids by group id.
using DraftPairing = std::map<std::string, std::vector<std::string>>;

// Gives each group up to `num_per_group` different draft workers whose tokenizer fingerprint equals the group's and
// that are not draining. No draft worker of a fingerprint gets more than its even share, rounded up. Pairs of `current`
// that keep these rules stay. Pure: equal arguments give equal pairings.
DraftPairing PairDraftWorkers(const ClusterSnapshot& cluster, const DraftPairing& current, int num_per_group);

}  // namespace outrider::router
