// `outrider generate`: a client of a running router, or of a cluster it starts for the call.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the subcommand; it runs when parsed and leaves its exit code in `exit_code`.
void AddGenerateCommand(CLI::App& app, int& exit_code);

}  // namespace outrider
