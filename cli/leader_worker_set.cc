#include "cli/leader_worker_set.h"

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

absl::StatusOr<uint32_t> Parse(const char* name, const char* value) {
  uint32_t number;
  if (absl::SimpleAtoi(value, &number)) return number;
  return absl::InvalidArgumentError(
      absl::StrCat(name, " = '", value, "' is not a whole number; a LeaderWorkerSet sets it"));
}

}  // namespace

absl::Status ApplyLeaderWorkerSet(const std::function<const char*(const std::string&)>& variable,
                                  v1::TargetConfig& config, std::map<std::string, std::string>& taken) {
  if (const char* index = variable("LWS_WORKER_INDEX"); index != nullptr && !config.has_rank()) {
    ASSIGN_OR_RETURN(const uint32_t rank, Parse("LWS_WORKER_INDEX", index));
    config.set_rank(rank);
    taken["rank"] = "LWS_WORKER_INDEX";
  }
  if (const char* size = variable("LWS_GROUP_SIZE"); size != nullptr && !config.has_tensor_parallel_size()) {
    ASSIGN_OR_RETURN(const uint32_t group_size, Parse("LWS_GROUP_SIZE", size));
    config.set_tensor_parallel_size(group_size);
    taken["tensor_parallel_size"] = "LWS_GROUP_SIZE";
  }
  const char* const leader = variable("LWS_LEADER_ADDRESS");
  if (leader == nullptr || config.has_leader_address() || config.rank() == 0) return absl::OkStatus();
  if (config.grpc_port() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("LWS_LEADER_ADDRESS = '", leader, "' has no port: set grpc_port, the same on all ranks"));
  }
  config.set_leader_address(absl::StrCat(leader, ":", config.grpc_port()));
  taken["leader_address"] = "LWS_LEADER_ADDRESS";
  return absl::OkStatus();
}

}  // namespace outrider
