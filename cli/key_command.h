// `outrider key`: draws API keys.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

void AddKeyCommand(CLI::App& app, int& exit_code);

}  // namespace outrider
