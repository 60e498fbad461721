// `outrider bench engine`: what the steps of a model cost on this machine (engine_bench.h).
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds `engine` to `bench`; it runs when parsed and leaves its exit code in `exit_code`.
void AddBenchEngineCommand(CLI::App& bench, int& exit_code);

}  // namespace outrider
