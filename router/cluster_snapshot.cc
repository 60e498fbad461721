#include "router/cluster_snapshot.h"

#include <algorithm>

namespace outrider::router {

void ClusterSnapshot::Rebuild() {
  kinds.clear();
  costs.resize(groups.size());
  for (size_t i = 0; i < groups.size(); ++i) {
    const GroupView& group = groups[i];
    const GroupKind kind{group.model, group.numerics_id, group.max_model_len};
    const auto found = std::find(kinds.begin(), kinds.end(), kind);
    costs[i].kind = static_cast<uint32_t>(found - kinds.begin());
    if (found == kinds.end()) kinds.push_back(kind);
    Refresh(i);
  }
}

void ClusterSnapshot::Refresh(size_t index) {
  const GroupView& group = groups[index];
  GroupCost& cost = costs[index];
  cost.num_tokens = group.num_tokens();
  cost.num_lanes = static_cast<int32_t>(group.num_lanes());
  cost.max_sequences = group.max_sequences;
  cost.life = group.life;
  cost.usable = group.usable();
  cost.held = group.held;
  cost.suspect = group.suspect;
}

int ClusterSnapshot::IndexOfLife(uint32_t life) const {
  for (size_t i = 0; i < costs.size(); ++i) {
    if (costs[i].life == life) return static_cast<int>(i);
  }
  return -1;
}

}  // namespace outrider::router
