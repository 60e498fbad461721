// The router as a process.
#pragma once

#include <chrono>

#include "absl/status/status.h"
#include "proto/config.pb.h"

namespace outrider {

// Longest wait for open requests once told to stop. Kubernetes kills after 30 s by default.
inline constexpr std::chrono::seconds kRouterDrainMax(25);

// Serves until SIGTERM or SIGINT: then takes nothing new, lets open requests end within kRouterDrainMax, and returns
// OK. A second signal ends the process at once. Errors: those of RouterServer::Start, and UNAVAILABLE if address_file
// can not be written.
//
// Call from the main thread before other threads start: the signals are blocked for the whole process.
absl::Status RunRouter(const v1::RouterConfig& config);

}  // namespace outrider
