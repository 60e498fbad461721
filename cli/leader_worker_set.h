// What a pod of a Kubernetes LeaderWorkerSet is told in its environment, as settings of a target rank: one pod a rank,
// the leader's is rank 0. Pure.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "proto/config.pb.h"

namespace outrider {

// Sets rank from LWS_WORKER_INDEX, tensor_parallel_size from LWS_GROUP_SIZE and, for ranks above 0, leader_address from
// LWS_LEADER_ADDRESS and grpc_port. What is set already stays. Nothing happens outside of such a pod. `taken` gets the
// variable of each setting that was set.
// INVALID_ARGUMENT naming the variable and its value if it is no number, or if leader_address needs a grpc_port.
absl::Status ApplyLeaderWorkerSet(const std::function<const char*(const std::string&)>& variable,
                                  v1::TargetConfig& config, std::map<std::string, std::string>& taken);

}  // namespace outrider
