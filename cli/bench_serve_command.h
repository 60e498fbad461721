// `outrider bench serve`: what a serving cluster gives its clients under load, in the terms of `vllm bench serve`.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the subcommand; it runs when parsed and leaves its exit code in `exit_code`: 1 also if no request succeeded.
void AddBenchServeCommand(CLI::App& bench, int& exit_code);

}  // namespace outrider
