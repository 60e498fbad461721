// `outrider serve`: the whole cluster on one machine, as child processes that it starts, supervises and tears down.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the subcommand; it runs when parsed and leaves its exit code in `exit_code`.
void AddServeCommand(CLI::App& app, int& exit_code);

}  // namespace outrider
