// A routing policy chooses the target group for an attempt, or says why none can take it now.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "router/cluster_snapshot.h"

namespace outrider::router {

// What an attempt asks of a group.
struct RoutingNeeds {
  ModelKey model;
  std::string numerics_id;  // not empty: only groups with this one (tokens were delivered already)
  int num_lanes = 1;
  int num_context_tokens = 0;          // prompt + max_tokens of a lane; must fit the group's max_model_len
  int64_t num_tokens = 0;              // load: prompt tokens and output tokens of all lanes
  std::vector<uint64_t> prefix_chain;  // of the prompt (prefix_index.h)
  uint64_t fingerprint = 0;            // of prompt and parameters without the seed; policies do not look at it
};

enum class RoutingRefusal : uint8_t {
  kNone,
  kNoGroup,     // none is registered
  kNotServing,  // some are, but none serves, is connected and takes requests
  kNoneFits,    // some serve, but none has the model, numerics_id or context that is asked for
  kAllBusy,     // those that fit have no room now
};

struct RoutingDecision {
  int group_index = -1;  // into ClusterSnapshot::groups; -1: none
  RoutingRefusal refusal = RoutingRefusal::kNone;
};

class RoutingPolicy {
 public:
  virtual ~RoutingPolicy() = default;
  // Pure: equal arguments give equal decisions.
  virtual RoutingDecision Choose(const ClusterSnapshot& cluster, const RoutingNeeds& needs) const = 0;
};

}  // namespace outrider::router
