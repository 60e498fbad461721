// `outrider bench cluster`: what a whole cluster gives, with drafts and without (cluster_bench.h).
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds `cluster` to `bench`; it runs when parsed and leaves its exit code in `exit_code`.
void AddBenchClusterCommand(CLI::App& bench, int& exit_code);

}  // namespace outrider
