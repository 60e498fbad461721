// One rank of a target group, from its settings to its end.
#pragma once

#include "absl/status/status.h"
#include "proto/config.pb.h"

namespace outrider {

// Runs until SIGTERM or SIGINT: then it takes nothing new, finishes what runs within kDrainTimeout and returns OK; a
// second signal ends the process at once. Rank 0 leads the group: it serves routers, followers and draft workers. Other
// ranks follow it, and end when it does.
//
// Errors: INVALID_ARGUMENT naming a setting; those of LoadModel; UNAVAILABLE naming an address that can not be bound;
// DEADLINE_EXCEEDED naming the ranks, or the leader, that did not come; FAILED_PRECONDITION with the leader's reason
// for refusing a rank. A group that breaks ends the process at once with kEndOfEpochExitCode.
//
// REQUIRES: called once, from the main thread, before other threads start.
absl::Status RunTarget(const v1::TargetConfig& config);

}  // namespace outrider
