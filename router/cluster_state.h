// ClusterState is what a router knows of its cluster at a moment, for those who look on: a copy, which nothing changes.
#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "router/cluster_snapshot.h"
#include "router/draft_pairing_policy.h"  // DraftPairing

namespace outrider::router {

struct ClusterState {
  std::vector<GroupView> groups;               // sorted by id
  std::vector<DraftWorkerView> draft_workers;  // likewise
  DraftPairing pairing;                        // as groups were told last; may name workers that are gone since
  int num_requests_waiting = 0;                // in the router's queue
  int64_t num_tokens_waiting = 0;
  Duration uptime{};  // of the router
};

}  // namespace outrider::router
