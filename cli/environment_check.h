// Variables that begin with OUTRIDER_ and mean nothing: a setting written wrong in the environment would otherwise be
// silently without effect. Pure.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace outrider {

struct EnvironmentFindings {
  // INVALID_ARGUMENT naming each variable that is a known one but for two letters or fewer: surely meant.
  absl::Status status;
  // The other unknown ones, a sentence each.
  std::vector<std::string> warnings;
};

// `variables`: names and values of the whole environment. What Kubernetes sets for services whose name begins with
// "outrider" (OUTRIDER_ROUTER_SERVICE_HOST, OUTRIDER_ROUTER_PORT_9000_TCP, ...) and what tests read is known.
EnvironmentFindings CheckEnvironment(const std::vector<std::pair<std::string, std::string>>& variables);

// This process's.
std::vector<std::pair<std::string, std::string>> EnvironmentVariables();

}  // namespace outrider
