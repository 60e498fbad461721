// `outrider chat`: a conversation in the terminal with a router, or with a cluster it starts for itself.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

// Adds the subcommand; it runs when parsed and leaves its exit code in `exit_code`.
void AddChatCommand(CLI::App& app, int& exit_code);

}  // namespace outrider
