// `outrider top`: a cluster live in the terminal, from its metrics.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the subcommand; it runs when parsed and leaves its exit code in `exit_code`: 1 if nobody answers.
void AddTopCommand(CLI::App& app, int& exit_code);

}  // namespace outrider
