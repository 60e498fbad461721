#include "router/least_loaded_policy.h"

#include <cstddef>
#include <cstdint>

#include "absl/container/inlined_vector.h"

namespace outrider::router {
namespace {

bool Fits(const GroupKind& kind, const RoutingNeeds& needs) {
  return needs.num_context_tokens <= kind.max_model_len &&
         (needs.numerics_id.empty() || needs.numerics_id == kind.numerics_id) && needs.model == kind.model;
}

// An idle group takes any request, also one with more lanes than it runs at once.
bool HasRoom(const GroupCost& cost, const RoutingNeeds& needs) {
  return cost.num_lanes == 0 || cost.num_lanes + needs.num_lanes <= LaneLimit(cost.max_sequences);
}

bool CostsLess(const GroupCost& a, const GroupCost& b) {
  if (a.suspect != b.suspect) return !a.suspect;
  return a.num_tokens != b.num_tokens ? a.num_tokens < b.num_tokens : a.num_lanes < b.num_lanes;
}

}  // namespace

bool CanTakeNow(const ClusterSnapshot& cluster, int index, const RoutingNeeds& needs) {
  const GroupCost& cost = cluster.costs[index];
  return cost.usable && !cost.held && !cost.suspect && HasRoom(cost, needs) && Fits(cluster.kinds[cost.kind], needs);
}

RoutingDecision LeastLoadedPolicy::Choose(const ClusterSnapshot& cluster, const RoutingNeeds& needs) const {
  if (cluster.costs.empty()) return {.refusal = RoutingRefusal::kNoGroup};
  // Strings are compared once a kind.
  absl::InlinedVector<bool, 8> fits;
  for (const GroupKind& kind : cluster.kinds) fits.push_back(Fits(kind, needs));
  RoutingDecision decision{.refusal = RoutingRefusal::kNotServing};
  const GroupCost* best = nullptr;
  for (size_t i = 0; i < cluster.costs.size(); ++i) {
    const GroupCost& cost = cluster.costs[i];
    if (!cost.usable || (best != nullptr && !CostsLess(cost, *best))) continue;
    if (!fits[cost.kind]) {
      if (decision.refusal == RoutingRefusal::kNotServing) decision.refusal = RoutingRefusal::kNoneFits;
      continue;
    }
    if (cost.held || !HasRoom(cost, needs)) {
      if (best == nullptr) decision.refusal = RoutingRefusal::kAllBusy;
      continue;
    }
    best = &cost;
    decision = {.group_index = static_cast<int>(i)};
  }
  return decision;
}

}  // namespace outrider::router
