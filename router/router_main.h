// The router as a process.
#pragma once

#include "absl/status/status.h"
#include "proto/config.pb.h"

namespace outrider {

// Serves until SIGTERM or SIGINT: then takes nothing new (health says NOT_SERVING, calls get UNAVAILABLE and when to
// come again), lets open requests end within drain_timeout_ms, ends what is left with UNAVAILABLE, and returns OK. A
// second signal ends the process at once with code 1. Errors: those of RouterServer::Start, and UNAVAILABLE if
// address_file can not be written.
//
// Call from the main thread before other threads start: the signals are blocked for the whole process.
absl::Status RunRouter(const v1::RouterConfig& config);

}  // namespace outrider
