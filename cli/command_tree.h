// The program's commands and flags as data, from CLI11's tree: what completion scripts and man pages are made of. Pure.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace outrider {

struct FlagInfo {
  std::vector<std::string> names;  // --tensor-parallel-size, -t; without those that are ours twice (underscores)
  std::string value;               // [1], FILE, HOST:PORT; empty: takes none
  std::string help;
  bool takes_file = false;
};

struct CommandInfo {
  std::vector<std::string> path;         // without the program's name: bench, serve
  std::string help;                      // one line
  std::string footer;                    // notes and examples, as --help ends
  std::vector<std::string> positionals;  // MODEL
  std::vector<FlagInfo> flags;
  std::vector<std::string> below;  // names of its commands
};

// CLI11 writes what a flag may be behind its type: "[0]:INT in [0 - 32]", "[on]:{on,off}". Here it ends the help
// instead,
// "(0 to 32)", or is left out where the help names each choice.
void MoveLimitsToHelp(CLI::App& app);

// The program itself first, then its commands, each before those below it. What is hidden is left out.
std::vector<CommandInfo> DescribeCommands(const CLI::App& app);

}  // namespace outrider
