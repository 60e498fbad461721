#include "cli/command_line.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

class CommandLine : public testing::Test {
 protected:
  CommandLine() {
    CLI::App* serve = app_.add_subcommand("serve");
    serve->add_option("MODEL", model_)->required();
    serve->add_option("--threads", threads_)->check(CLI::Range(0, 64));
    serve->add_option("--name", name_);
    CLI::App* bench = app_.add_subcommand("bench");
    bench->add_subcommand("engine")->add_option("--rows", threads_)->required();
    bench->require_subcommand(1);
    app_.require_subcommand(1);
  }
  std::optional<int> Parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "outrider");
    return ParseCommandLine(app_, static_cast<int>(arguments.size()), arguments.data());
  }
  CLI::App app_{"", "outrider"};
  std::string model_;
  std::string name_ = "before";
  int threads_ = 0;
};

TEST_F(CommandLine, NamesTheUnknownCommandAndTheNearest) {
  EXPECT_EQ(UnknownArgument(app_, {"serv"}),
            "outrider: unknown command 'serv'; did you mean 'serve'? See outrider --help");
  EXPECT_EQ(UnknownArgument(app_, {"fly"}), "outrider: unknown command 'fly'; see outrider --help");
}

TEST_F(CommandLine, NamesTheUnknownFlagThoughMoreIsMissing) {
  EXPECT_EQ(UnknownArgument(app_, {"serve", "--thread=3"}),
            "outrider serve: unknown flag '--thread'; did you mean '--threads'? See outrider serve --help");
  EXPECT_EQ(UnknownArgument(app_, {"serve", "--help"}), std::nullopt);
  EXPECT_EQ(UnknownArgument(app_, {"serve", "--", "--thread"}), std::nullopt);
}

TEST_F(CommandLine, NamesWhatIsUnknownBelowACommandOfCommands) {
  EXPECT_EQ(UnknownArgument(app_, {"bench", "engines"}),
            "outrider bench: unknown command 'engines'; did you mean 'engine'? See outrider bench --help");
  EXPECT_EQ(UnknownArgument(app_, {"bench", "engine", "--row", "1"}),
            "outrider bench engine: unknown flag '--row'; did you mean '--rows'? See outrider bench engine --help");
  EXPECT_EQ(UnknownArgument(app_, {"bench", "engine", "--rows", "1"}), std::nullopt);
  testing::internal::CaptureStderr();
  EXPECT_EQ(Parse({"bench", "engine"}), 2);
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_NE(told.find("see outrider bench engine --help"), std::string::npos) << told;
}

TEST_F(CommandLine, ParsesWhatIsRight) {
  EXPECT_EQ(Parse({"serve", "m.gguf", "--threads", "3"}), std::nullopt);
  EXPECT_EQ(model_, "m.gguf");
  EXPECT_EQ(threads_, 3);
}

TEST_F(CommandLine, AnEmptyValueIsTheFlagsAndNotTheNextArgument) {
  EXPECT_EQ(Parse({"serve", "m.gguf", "--name=", "--threads=3"}), std::nullopt);
  EXPECT_EQ(name_, "");
  EXPECT_EQ(threads_, 3);
  EXPECT_EQ(Parse({"serve", "m.gguf", "--name=x", "--threads=4"}), std::nullopt);
  EXPECT_EQ(name_, "x");
  testing::internal::CaptureStderr();
  EXPECT_EQ(Parse({"serve", "m.gguf", "--threads=", "--name=y"}), 2);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("--threads"), std::string::npos);
}

TEST_F(CommandLine, TellsWhatIsWrongAndExitsWith2) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(Parse({"serve", "m.gguf", "--threads", "x"}), 2);
  EXPECT_EQ(Parse({"serve"}), 2);
  EXPECT_EQ(Parse({"serve", "m.gguf", "--bogus"}), 2);
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_NE(told.find("--threads"), std::string::npos) << told;
  EXPECT_NE(told.find("MODEL is required; see outrider serve --help"), std::string::npos) << told;
  EXPECT_NE(told.find("unknown flag '--bogus'"), std::string::npos) << told;
}

TEST_F(CommandLine, HelpExitsWith0) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(Parse({"serve", "--help"}), 0);
  EXPECT_NE(testing::internal::GetCapturedStdout().find("--threads"), std::string::npos);
}

}  // namespace
}  // namespace outrider
