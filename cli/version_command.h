// `outrider version`: what this program is.
#pragma once

#include <CLI/CLI.hpp>

namespace outrider {

inline constexpr char kProgramVersion[] = "0.1.0";

// Adds the subcommand and --version.
void AddVersionCommand(CLI::App& app);

}  // namespace outrider
