// `outrider completion` and `outrider man`: what a package installs beside the program.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds both to `app`, which outlives them and whose whole tree they describe when run.
void AddCompletionCommands(CLI::App& app, int& exit_code);

}  // namespace outrider
