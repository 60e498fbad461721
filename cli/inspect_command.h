// `outrider inspect`: what a model file holds and what it needs.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the subcommand; it runs when parsed and leaves its exit code in `exit_code`.
void AddInspectCommand(CLI::App& app, int& exit_code);

}  // namespace outrider
