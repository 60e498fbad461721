// The least loaded group, unless one that holds a longer beginning of the prompt carries not much more: then that one,
// which computes less for it.
//
// "Not much more" is `load_tokens` outstanding tokens, and no more than the cached beginning spares it: so a popular
// beginning fills one group no further than is worth it, and spreads from there. Of groups that hold equally much, the
// least loaded.
#pragma once

#include "router/least_loaded_policy.h"
#include "router/prefix_index.h"

namespace outrider::router {

class PrefixAffinityPolicy final : public RoutingPolicy {
 public:
  // `load_tokens` 0: the least loaded group in any case. `index` outlives this.
  PrefixAffinityPolicy(const PrefixIndex* index, int64_t load_tokens) : index_(*index), load_tokens_(load_tokens) {}

  RoutingDecision Choose(const ClusterSnapshot& cluster, const RoutingNeeds& needs) const override;

 private:
  const PrefixIndex& index_;
  const int64_t load_tokens_;
  const LeastLoadedPolicy least_loaded_;
};

}  // namespace outrider::router
