// A draft worker, from its settings to its end.
#pragma once

#include "absl/status/status.h"
#include "proto/config.pb.h"

namespace outrider {

// Runs until SIGTERM or SIGINT and returns OK: drafts are hints, so nothing is finished first. A second signal ends the
// process at once.
//
// Errors: INVALID_ARGUMENT naming a setting; those of LoadModel; UNAVAILABLE naming an address that can not be bound.
//
// REQUIRES: called once, from the main thread, before other threads start.
absl::Status RunDraft(const v1::DraftConfig& config);

}  // namespace outrider
