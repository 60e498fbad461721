// `outrider health`: is a process alive and ready, as an exit code.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the subcommand; it runs when parsed and leaves its exit code in `exit_code`: 0 yes, 1 no, 2 asked wrongly.
void AddHealthCommand(CLI::App& app, int& exit_code);

}  // namespace outrider
