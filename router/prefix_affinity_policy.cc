#include "router/prefix_affinity_policy.h"

#include <algorithm>

namespace outrider::router {
namespace {

// Shorter beginnings are looked at so far down if nobody who holds the longest can take it.
constexpr size_t kStepsBack = 4;

}  // namespace

RoutingDecision PrefixAffinityPolicy::Choose(const ClusterSnapshot& cluster, const RoutingNeeds& needs) const {
  const RoutingDecision least = least_loaded_.Choose(cluster, needs);
  if (least.group_index < 0 || load_tokens_ <= 0 || needs.prefix_chain.empty()) return least;
  const size_t num_known = index_.KnownBlocks(needs.prefix_chain);
  for (size_t length = num_known; length > 0 && length + kStepsBack > num_known; --length) {
    const PrefixIndex::Holders holders = index_.HoldersOf(needs.prefix_chain[length - 1]);
    const int64_t spared = static_cast<int64_t>(length * kPrefixBlockTokens);
    const int64_t bound = cluster.costs[least.group_index].num_tokens + std::min(load_tokens_, spared);
    int best = -1;
    for (const uint32_t life : holders) {
      if (life == 0) break;
      const int index = cluster.IndexOfLife(life);
      if (index < 0 || cluster.costs[index].num_tokens > bound || !CanTakeNow(cluster, index, needs)) continue;
      if (best < 0 || cluster.costs[index].num_tokens < cluster.costs[best].num_tokens) best = index;
    }
    if (best >= 0) return {.group_index = best};
  }
  return least;
}

}  // namespace outrider::router
