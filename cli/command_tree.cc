#include "cli/command_tree.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

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

// "a, b" of "x:{a,b}"; "0 to 32" of "x:INT in [0 - 32]"; empty: none.
std::string Limits(const std::string& type, const std::string& help) {
  const size_t range = type.find(" in [");
  if (range != std::string::npos && type.back() == ']') {
    return absl::StrReplaceAll(type.substr(range + 5, type.size() - range - 6),
                               {{" - ", " to "}, {"1e+06", "1000000"}});
  }
  const size_t choices = type.rfind(":{");
  if (choices == std::string::npos || type.back() != '}') return "";
  const std::vector<std::string> names =
      absl::StrSplit(type.substr(choices + 2, type.size() - choices - 3), ',', absl::SkipEmpty());
  for (const std::string& name : names) {
    if (!absl::StrContains(help, name)) return absl::StrJoin(names, ", ");
  }
  return "";
}

}  // namespace

void MoveLimitsToHelp(CLI::App& app) {
  for (CLI::Option* const option : app.get_options()) {
    const std::string before = option->get_type_name();
    const std::string limits = Limits(before, option->get_description());
    try {
      option->get_validator(0)->description("");
    } catch (const CLI::OptionNotFound&) {
      continue;  // it takes anything
    }
    if (!limits.empty()) option->description(absl::StrCat(option->get_description(), " (", limits, ")"));
  }
  for (CLI::App* const below : app.get_subcommands(nullptr)) MoveLimitsToHelp(*below);
}

std::vector<CommandInfo> DescribeCommands(const CLI::App& app) {
  std::vector<CommandInfo> commands;
  Describe(app, {}, commands);
  return commands;
}

}  // namespace outrider
