// Man pages of the program and of each command, from the same tree as --help. Pure.
#pragma once

#include <string>
#include <vector>

#include "cli/command_tree.h"

namespace outrider {

// "outrider", "outrider-bench-serve": the page's name, without its section, which is 1.
std::string ManPageName(const CommandInfo& command);

// roff with the man macros. `all` is the tree that `command` is of.
std::string ManPage(const CommandInfo& command, const std::vector<CommandInfo>& all, const std::string& version);

}  // namespace outrider
