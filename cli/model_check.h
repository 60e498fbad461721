// What must hold of the model files before a cluster of them is started: said once, here, and not by every child.
#pragma once

#include "absl/status/status.h"
#include "cli/cluster_plan.h"

namespace outrider {

// Reads the headers of target and draft model. Errors name the file: not readable, not a model of a known kind, more
// ranks than heads, a draft model whose tokenizer is not the target's (both named), a device this build has not.
absl::Status CheckModels(const ClusterOptions& options);

}  // namespace outrider
