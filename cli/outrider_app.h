// The command line of the program: every subcommand with its flags, as one tree. Help, completion and man pages come
// from it too.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>

namespace outrider {

// The chosen command runs while the tree parses (command_line.h) and leaves its exit code in `exit_code`, which
// outlives the tree.
std::unique_ptr<CLI::App> MakeOutriderApp(int& exit_code);

}  // namespace outrider
