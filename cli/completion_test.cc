// The scripts and pages that are made of the program's own tree.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/command_tree.h"
#include "cli/completion_script.h"
#include "cli/man_page.h"
#include "cli/testing/run_program.h"

namespace outrider {
namespace {

CommandInfo FindCommand(const std::vector<CommandInfo>& commands, const std::vector<std::string>& path) {
  for (const CommandInfo& command : commands) {
    if (command.path == path) return command;
  }
  ADD_FAILURE() << "no such command";
  return {};
}

std::vector<CommandInfo> Tree() {
  CLI::App app("A program.", "outrider");
  CLI::App* const bench = app.add_subcommand("bench", "Measure it");
  CLI::App* const serve = bench->add_subcommand("serve", "Under load. As others do");
  static std::string text;
  static bool flag;
  serve->add_option("MODEL", text, "A file");
  serve->add_option("--max-len,--max_len,-m", text, "It's long: 5 <= 6. And more.")->type_name("[0]");
  serve->add_option("--config", text, "A file \\ of it")->type_name("FILE");
  serve->add_flag("--json", flag, "As JSON");
  serve->add_option("--rank", text)->group("");
  serve->footer("A note.\n.dangerous\n\nExample:\n  outrider bench serve --json");
  return DescribeCommands(app);
}

TEST(CommandTree, LimitsOfAFlagEndItsHelp) {
  CLI::App app("A program.", "outrider");
  static int number;
  static std::string name;
  CLI::App* const below = app.add_subcommand("below", "");
  below->add_option("--port", number, "To listen on")->type_name("[9000]")->check(CLI::Range(1, 65535));
  below->add_option("--draft", name, "on or off")->type_name("[on]")->check(CLI::IsMember({"on", "off"}));
  below->add_option("--dataset", name, "Of prompts")->type_name("[a]")->check(CLI::IsMember({"a", "random"}));
  below->add_option("--address", name, "To ask")->type_name("HOST:PORT");
  MoveLimitsToHelp(app);
  const CommandInfo info = FindCommand(DescribeCommands(app), {"below"});
  ASSERT_EQ(info.flags.size(), 5u);
  EXPECT_EQ(info.flags[1].value, "[9000]");
  EXPECT_EQ(info.flags[1].help, "To listen on (1 to 65535)");
  EXPECT_EQ(info.flags[2].value, "[on]");
  EXPECT_EQ(info.flags[2].help, "on or off");
  EXPECT_EQ(info.flags[3].help, "Of prompts (a, random)");
  EXPECT_EQ(info.flags[4].value, "HOST:PORT");
  EXPECT_THROW(app.parse("below --port 0"), CLI::ValidationError);
}

TEST(CommandTree, HasEveryCommandAndFlagThatIsNotHidden) {
  const std::vector<CommandInfo> commands = Tree();
  ASSERT_EQ(commands.size(), 3u);
  EXPECT_EQ(commands[0].below, (std::vector<std::string>{"bench"}));
  const CommandInfo serve = FindCommand(commands, {"bench", "serve"});
  EXPECT_EQ(serve.positionals, (std::vector<std::string>{"MODEL"}));
  ASSERT_EQ(serve.flags.size(), 4u);  // --help is one
  EXPECT_EQ(serve.flags[1].names, (std::vector<std::string>{"--max-len", "-m"}));
  EXPECT_EQ(serve.flags[1].value, "[0]");
  EXPECT_TRUE(serve.flags[2].takes_file);
  EXPECT_EQ(serve.flags[3].value, "");
}

// What bash would offer for `words`, the last of which is being typed.
std::string Complete(const std::string& script, const std::vector<std::string>& words) {
  const std::string path = testing::TempDir() + "/complete_" + std::to_string(::getpid()) + ".sh";
  std::ofstream file(path);
  file << script << "COMP_WORDS=(";
  for (const std::string& word : words) file << "'" << word << "' ";
  file << ")\nCOMP_CWORD=" << words.size() - 1 << "\n_outrider\necho \"${COMPREPLY[*]}\"\n";
  file.close();
  FILE* const pipe = ::popen(("bash " + path + " 2>&1").c_str(), "r");
  std::string out(4096, '\0');
  out.resize(std::fread(out.data(), 1, out.size(), pipe));
  ::pclose(pipe);
  return out;
}

TEST(Completion, BashOffersCommandsThenFlagsAndFilesWhereTheyGo) {
  const std::string script = BashCompletion(Tree());
  EXPECT_EQ(Complete(script, {"outrider", ""}), "bench\n");
  EXPECT_EQ(Complete(script, {"outrider", "bench", "s"}), "serve\n");
  EXPECT_EQ(Complete(script, {"outrider", "bench", "serve", "--m"}), "--max-len\n");
  EXPECT_EQ(Complete(script, {"outrider", "bench", "serve", "--json", "-"}),
            "--help -h --max-len -m --config --json\n");
  EXPECT_EQ(Complete(script, {"outrider", "bench", "serve", "--max-len", ""}), "\n");
  const std::string folder = testing::TempDir() + "/files_" + std::to_string(::getpid());
  std::filesystem::create_directory(folder);
  std::ofstream(folder + "/a.yaml") << "";
  EXPECT_EQ(Complete(script, {"outrider", "bench", "serve", "--config", folder + "/a"}), folder + "/a.yaml\n");
  EXPECT_EQ(Complete(script, {"outrider", "nothing", ""}), "bench\n");
}

TEST(Completion, ZshAndFishQuoteWhatTheirShellsWouldRead) {
  const std::string zsh = ZshCompletion(Tree());
  EXPECT_NE(zsh.find("'--max-len:It'\\''s long: 5 <= 6'"), std::string::npos) << zsh;
  EXPECT_NE(zsh.find("(\" bench serve\")"), std::string::npos);
  const std::string fish = FishCompletion(Tree());
  EXPECT_NE(
      fish.find(
          R"(complete -c outrider -n '__outrider_at \' bench serve\'' -l max-len -s m -x -d 'It\'s long: 5 <= 6')"),
      std::string::npos)
      << fish;
  EXPECT_NE(fish.find(R"(-l config -r -F -d 'A file \\ of it')"), std::string::npos) << fish;
}

TEST(ManPage, SaysWhatHelpSaysAndGroffTakesIt) {
  const std::vector<CommandInfo> commands = Tree();
  const CommandInfo serve = FindCommand(commands, {"bench", "serve"});
  EXPECT_EQ(ManPageName(serve), "outrider-bench-serve");
  const std::string page = ManPage(serve, commands, "1.0");
  for (const char* const expected :
       {".TH OUTRIDER\\-BENCH\\-SERVE 1", "\\fB\\-\\-max\\-len\\fR, \\fB\\-m\\fR \\fI[0]\\fR", "\n\\&.dangerous",
        ".SH EXAMPLES\n.nf\n  outrider bench serve \\-\\-json", ".BR outrider\\-bench (1)"}) {
    EXPECT_NE(page.find(expected), std::string::npos) << expected << "\n" << page;
  }
  EXPECT_NE(ManPage(commands[0], commands, "1.0").find(".TP\n.B bench\nMeasure it. See outrider\\-bench(1)."),
            std::string::npos);
}

TEST(ManPage, TheProgramWritesOneForEachCommandAndGroffHasNothingToSay) {
  const std::string folder = testing::TempDir() + "/man_" + std::to_string(::getpid());
  ASSERT_EQ(RunProgram({"man", "--output-dir", folder}).exit_code, 0);
  int count = 0;
  const bool has_groff = std::system("command -v groff >/dev/null 2>&1") == 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    ++count;
    if (!has_groff) continue;
    const std::string command = "test -z \"$(groff -man -Tascii -ww -z " + entry.path().string() + " 2>&1)\"";
    EXPECT_EQ(std::system(command.c_str()), 0) << entry.path();
  }
  EXPECT_GE(count, 20);
  EXPECT_TRUE(std::filesystem::exists(folder + "/outrider-bench-serve.1"));
  EXPECT_EQ(RunProgram({"man", "bench", "serve"}).out.find(".TH OUTRIDER\\-BENCH\\-SERVE"), 0u);
  EXPECT_EQ(RunProgram({"man", "fly"}).exit_code, 2);
}

TEST(Completion, TheProgramsOwnScriptKnowsItsCommands) {
  const ProgramResult bash = RunProgram({"completion", "bash"});
  ASSERT_EQ(bash.exit_code, 0);
  EXPECT_EQ(Complete(bash.out, {"outrider", "config", "dump", "rou"}), "router\n");
  EXPECT_EQ(Complete(bash.out, {"outrider", "config", "dump", "router", "--grpc-p"}), "--grpc-port\n");
  EXPECT_EQ(RunProgram({"completion", "tcsh"}).exit_code, 2);
}

}  // namespace
}  // namespace outrider
