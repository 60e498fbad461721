// Scripts that complete the program's commands and flags in a shell. Pure.
#pragma once

#include <string>
#include <vector>

#include "cli/command_tree.h"

namespace outrider {

std::string BashCompletion(const std::vector<CommandInfo>& commands);
std::string ZshCompletion(const std::vector<CommandInfo>& commands);
std::string FishCompletion(const std::vector<CommandInfo>& commands);

}  // namespace outrider
