// What a call brings when it wants a target group.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "router/cluster_snapshot.h"
#include "router/routing_policy.h"

namespace outrider::router {

enum class RouteKind : uint8_t {
  kNew,       // it was not admitted yet: the queue's bounds hold
  kAgain,     // nothing ran of it: it goes first and costs nothing
  kReplay,    // its group was lost or refused it: it goes first, at the cost of the retry budget
  kHandOver,  // its group is draining: it goes first and costs nothing
};

struct RouteRequest {
  std::optional<RoutingNeeds> needs;  // absent: no model is known yet
  int64_t num_tokens = 0;             // the load; an estimate while needs are absent
  RouteKind kind = RouteKind::kNew;
  TimePoint since{};                  // when it came, or when its group was lost: its wait counts from here
  std::optional<TimePoint> deadline;  // the client's
  int priority = 0;
  std::vector<GroupRef> lost_on;  // groups that it ran on when they were lost
};

}  // namespace outrider::router
