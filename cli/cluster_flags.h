// The flags of a cluster on one machine, shared by `serve` and `generate --model`.
#pragma once

#include <CLI/CLI.hpp>

#include "cli/cluster_plan.h"

namespace outrider {

// Adds every flag of ClusterOptions but the model and the addresses.
void AddClusterFlags(CLI::App& command, ClusterOptions& options);

}  // namespace outrider
