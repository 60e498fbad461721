// What a router tells of its cluster's load, made of what it knows: the one source of Inference/GetLoad and GET
// /cluster.
//
// Thread safety: pure functions; CurrentLoad from any thread.
#pragma once

#include <cstdint>
#include <string>

#include "proto/load.pb.h"
#include "router/cluster_state.h"
#include "router/stats_line.h"  // Traffic

namespace outrider::router {

// What there is to tell beside the workers.
struct RouterOverview {
  std::string model;  // empty: none is known yet
  int max_model_len = 0;
  std::string why_not_serving;  // empty: requests are served
  int num_requests_open = 0;
  Traffic traffic;
};

v1::ClusterLoad ToClusterLoad(const RouterOverview& overview, const ClusterState& state);

}  // namespace outrider::router
