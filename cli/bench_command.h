// `outrider bench`: what things cost on this machine, a subcommand each.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the subcommand `bench`; what is below it runs when parsed and leaves its exit code in `exit_code`.
void AddBenchCommand(CLI::App& app, int& exit_code);

}  // namespace outrider
