#include "router/least_loaded_policy.h"

#include <cstddef>
#include <tuple>

namespace outrider::router {
namespace {

bool Fits(const GroupView& group, const RoutingNeeds& needs) {
  return needs.num_context_tokens <= group.max_model_len &&
         (needs.numerics_id.empty() || needs.numerics_id == group.numerics_id) && needs.model == group.model;
}

// An idle group takes any request, also one with more lanes than it runs at once.
bool HasRoom(const GroupView& group, const RoutingNeeds& needs) {
  const int64_t num_lanes = group.num_lanes();
  return num_lanes == 0 || num_lanes + needs.num_lanes <= LaneLimit(group.max_sequences);
}

}  // namespace

RoutingDecision LeastLoadedPolicy::Choose(const ClusterSnapshot& cluster, const RoutingNeeds& needs) const {
  if (cluster.groups.empty()) return {.refusal = RoutingRefusal::kNoGroup};
  RoutingDecision decision{.refusal = RoutingRefusal::kNotServing};
  std::tuple<bool, int64_t, int64_t> best;
  for (size_t i = 0; i < cluster.groups.size(); ++i) {
    const GroupView& group = cluster.groups[i];
    if (!group.usable()) continue;
    // Numbers first: strings are compared only for a group that would be chosen, or while there is none.
    const std::tuple<bool, int64_t, int64_t> cost{group.suspect, group.num_tokens(), group.num_lanes()};
    if (decision.group_index >= 0 && !(cost < best)) continue;
    if (!Fits(group, needs)) {
      if (decision.refusal == RoutingRefusal::kNotServing) decision.refusal = RoutingRefusal::kNoneFits;
      continue;
    }
    if (group.held || !HasRoom(group, needs)) {
      if (decision.group_index < 0) decision.refusal = RoutingRefusal::kAllBusy;
      continue;
    }
    best = cost;
    decision = {.group_index = static_cast<int>(i)};
  }
  return decision;
}

}  // namespace outrider::router
