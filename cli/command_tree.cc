#include "cli/command_tree.h"

#include "absl/strings/match.h"

namespace outrider {
namespace {

void Describe(const CLI::App& command, const std::vector<std::string>& path, std::vector<CommandInfo>& commands) {
  CommandInfo info{.path = path, .help = command.get_description(), .footer = command.get_footer()};
  for (const CLI::Option* const option : command.get_options(nullptr)) {
    if (option->get_group().empty()) continue;
    if (option->get_positional() && option->get_lnames().empty()) {
      info.positionals.push_back(option->get_single_name());
      continue;
    }
    FlagInfo flag{.help = option->get_description()};
    for (const std::string& name : option->get_lnames()) {
      if (!absl::StrContains(name, '_')) flag.names.push_back("--" + name);
    }
    for (const std::string& name : option->get_snames()) flag.names.push_back("-" + name);
    if (flag.names.empty()) continue;
    if (option->get_items_expected_max() > 0) flag.value = option->get_type_name();
    flag.takes_file = flag.value == "FILE" || flag.value == "DIR" || flag.value == "F";
    info.flags.push_back(std::move(flag));
  }
  const std::vector<const CLI::App*> below = command.get_subcommands(nullptr);
  for (const CLI::App* const one : below) {
    if (!one->get_group().empty()) info.below.push_back(one->get_name());
  }
  commands.push_back(std::move(info));
  for (const CLI::App* const one : below) {
    if (one->get_group().empty()) continue;
    std::vector<std::string> deeper = path;
    deeper.push_back(one->get_name());
    Describe(*one, deeper, commands);
  }
}

}  // namespace

std::vector<CommandInfo> DescribeCommands(const CLI::App& app) {
  std::vector<CommandInfo> commands;
  Describe(app, {}, commands);
  return commands;
}

}  // namespace outrider
