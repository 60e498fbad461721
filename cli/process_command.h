// `outrider router|target|draft`: a process of a cluster from its settings.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the three subcommands. Each runs when parsed and leaves its exit code in `exit_code`.
void AddProcessCommands(CLI::App& app, int& exit_code);

}  // namespace outrider
