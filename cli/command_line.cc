#include "cli/command_line.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "cli/config_schema.h"  // NearestName
#include "cli/flag_translation.h"

namespace outrider {
namespace {

std::string Hint(const std::string& nearest, const std::string& help) {
  return nearest.empty() ? absl::StrCat("; see ", help) : absl::StrCat("; did you mean '", nearest, "'? See ", help);
}

}  // namespace

std::optional<std::string> UnknownArgument(const CLI::App& app, const std::vector<std::string>& arguments) {
  const CLI::App* command = &app;
  std::string path = app.get_name();
  bool is_command = true;  // all words before were commands
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string name = arguments[i].substr(0, arguments[i].find('='));
    if (name == "--") break;  // what follows is no flag
    const std::vector<const CLI::App*> below = command->get_subcommands(nullptr);
    if (!below.empty() && is_command && !name.empty() && name[0] != '-') {
      command = nullptr;
      std::vector<std::string> names;
      for (const CLI::App* one : below) {
        if (one->get_name() == name) command = one;
        names.push_back(one->get_name());
      }
      if (command == nullptr) {
        return absl::StrCat(path, ": unknown command '", name, "'", Hint(NearestName(name, names), path + " --help"));
      }
      absl::StrAppend(&path, " ", name);
      continue;
    }
    is_command = false;
    if (name.size() > 2 && name[0] == '-' && name[1] == '-') {
      if (command->get_option_no_throw(name) != nullptr) continue;
      std::vector<std::string> names;
      for (const CLI::Option* option : command->get_options(nullptr)) {
        for (const std::string& one : option->get_lnames()) names.push_back("--" + one);
      }
      return absl::StrCat(path, ": unknown flag '", name, "'", Hint(NearestName(name, names), path + " --help"));
    }
  }
  return std::nullopt;
}

std::optional<int> ParseCommandLine(CLI::App& app, int argc, const char* const* argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const std::string command = arguments.empty() ? "" : absl::StrCat(" ", arguments[0]);
  if (arguments.empty()) {
    std::fprintf(stderr, "%s", app.help().c_str());
    return 2;
  }
  auto translated = TranslateVllmFlags(app, arguments);
  if (!translated.ok()) {
    std::fprintf(stderr, "%s%s: %s\n", app.get_name().c_str(), command.c_str(),
                 std::string(translated.status().message()).c_str());
    return 2;
  }
  arguments = std::move(translated->arguments);
  if (const auto unknown = UnknownArgument(app, arguments)) {
    std::fprintf(stderr, "%s\n", unknown->c_str());
    return 2;
  }
  for (const std::string& note : translated->notes) {
    std::fprintf(stderr, "%s%s: note: %s\n", app.get_name().c_str(), command.c_str(), note.c_str());
  }
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::string path = app.get_name();
    for (const CLI::App* below = &app; !below->get_subcommands().empty();) {
      below = below->get_subcommands()[0];
      absl::StrAppend(&path, " ", below->get_name());
    }
    std::fprintf(stderr, "%s: %s; see %s --help\n", path.c_str(), error.what(), path.c_str());
    return 2;
  }
  return std::nullopt;
}

}  // namespace outrider
