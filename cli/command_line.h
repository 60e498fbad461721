// Parses the command line of a program of subcommands, and says what is wrong with it: a command or flag that does not
// exist is named, with the nearest that does, before anything that is missing.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

namespace outrider {

// What does not exist among `arguments` (without the program's name); nothing if all do.
std::optional<std::string> UnknownArgument(const CLI::App& app, const std::vector<std::string>& arguments);

// Parses, flags of vLLM translated (flag_translation.h), and runs the chosen command's callback. Nothing on success;
// otherwise what the process exits with: 0 after
// --help or --version, 2 after an error, which is told on standard error.
std::optional<int> ParseCommandLine(CLI::App& app, int argc, const char* const* argv);

}  // namespace outrider
