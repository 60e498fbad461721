#include "cli/completion_command.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/command_tree.h"
#include "cli/completion_script.h"
#include "cli/man_page.h"
#include "cli/version_command.h"  // kProgramVersion

namespace outrider {
namespace {

// False, told, if a page can not be written.
bool WritePages(const std::vector<CommandInfo>& commands, const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  for (const CommandInfo& command : commands) {
    const std::string path = absl::StrCat(folder, "/", ManPageName(command), ".1");
    std::ofstream file(path);
    file << ManPage(command, commands, kProgramVersion);
    file.close();
    if (file) continue;
    std::fprintf(stderr, "outrider man: '%s' can not be written; see --output-dir\n", path.c_str());
    return false;
  }
  return true;
}

}  // namespace

void AddCompletionCommands(CLI::App& app, int& exit_code) {
  CLI::App* const completion = app.add_subcommand("completion", "Print a script that completes commands and flags");
  const auto shell = std::make_shared<std::string>();
  completion->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  completion->footer(
      "Examples:\n"
      "  source <(outrider completion bash)\n"
      "  outrider completion zsh > ~/.zfunc/_outrider\n"
      "  outrider completion fish > ~/.config/fish/completions/outrider.fish");
  completion->callback([=, &app] {
    const std::vector<CommandInfo> commands = DescribeCommands(app);
    std::printf("%s", (*shell == "bash"  ? BashCompletion(commands)
                       : *shell == "zsh" ? ZshCompletion(commands)
                                         : FishCompletion(commands))
                          .c_str());
  });

  CLI::App* const man = app.add_subcommand("man", "Print the man page of a command, or write all of them");
  struct ManFlags {
    std::vector<std::string> path;
    std::string output_dir;
  };
  const auto flags = std::make_shared<ManFlags>();
  man->add_option("COMMAND", flags->path, "The command, such as bench serve; none: the program");
  man->add_option("--output-dir", flags->output_dir, "Write every page to a file here instead")->type_name("DIR");
  man->footer(
      "Examples:\n"
      "  outrider man bench serve | man -l -\n"
      "  outrider man --output-dir /usr/local/share/man/man1");
  man->callback([=, &app, &exit_code] {
    const std::vector<CommandInfo> commands = DescribeCommands(app);
    if (!flags->output_dir.empty()) {
      exit_code = WritePages(commands, flags->output_dir) ? 0 : 1;
      return;
    }
    for (const CommandInfo& command : commands) {
      if (command.path != flags->path) continue;
      std::printf("%s", ManPage(command, commands, kProgramVersion).c_str());
      return;
    }
    std::fprintf(stderr, "outrider man: there is no command '%s'; see outrider --help\n",
                 absl::StrJoin(flags->path, " ").c_str());
    exit_code = 2;
  });
}

}  // namespace outrider
