// Fewest outstanding tokens wins; ties go to the fewest lanes, then to the lower id, so
// equal inputs give equal answers.
//
// A group takes lanes up to its max_sequences and a little beyond: those few wait in the group, so that a step that
// frees a place fills it without asking the router. The rest wait here, where another group may take them.
#pragma once

#include "router/routing_policy.h"

namespace outrider::router {

// Lanes that may be open on a group of `max_sequences`: a quarter more than run at once, and 4 at least. Derived: a
// place is free for less than a step (under 200 ms) until the router has filled it, and in a step rarely more than a
// quarter of the sequences end.
constexpr int64_t LaneLimit(int max_sequences) {
  const int64_t spare = max_sequences / 4;
  return max_sequences + (spare > 4 ? spare : 4);
}

// Group `index` serves, fits and has room for it. REQUIRES, here and below: cluster.costs is of cluster.groups.
bool CanTakeNow(const ClusterSnapshot& cluster, int index, const RoutingNeeds& needs);

class LeastLoadedPolicy final : public RoutingPolicy {
 public:
  RoutingDecision Choose(const ClusterSnapshot& cluster, const RoutingNeeds& needs) const override;
};

}  // namespace outrider::router
