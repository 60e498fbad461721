// `outrider doctor`: what of this host a cluster would trip over, each with a remedy.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the subcommand; it runs when parsed and leaves its exit code in `exit_code`: 1 if anything is an error.
void AddDoctorCommand(CLI::App& app, int& exit_code);

}  // namespace outrider
