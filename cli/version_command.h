// `outrider version`: what this program is.
#pragma once

#include <CLI/CLI.hpp>

#include "base/version.h"

namespace outrider {

// Adds the subcommand and --version.
void AddVersionCommand(CLI::App& app);

}  // namespace outrider
