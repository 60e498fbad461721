// `outrider config`: what a process would be set to, and from where, without starting it.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the subcommand; what is below it runs when parsed and leaves its exit code in `exit_code`: 0, or 2 if a setting
// is wrong.
void AddConfigCommand(CLI::App& app, int& exit_code);

}  // namespace outrider
