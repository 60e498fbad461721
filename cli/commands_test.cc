// What the program does as a whole: output, exit codes, and what it says of wrong arguments. Commands that need a
// cluster are tested in tests/integration.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/testing/run_program.h"

namespace outrider {
namespace {

using Json = nlohmann::json;

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = testing::TempDir() + "/" + name + "_" + std::to_string(::getpid());
  std::ofstream(path) << text;
  return path;
}

TEST(Commands, VersionSaysItForPeopleAndForPrograms) {
  const ProgramResult people = RunProgram({"version"});
  EXPECT_EQ(people.exit_code, 0);
  const Json json = Json::parse(RunProgram({"version", "--json"}).out);
  EXPECT_EQ(people.out.find("outrider " + json["version"].get<std::string>() + ","), 0u) << people.out;
  for (const char* const key : {"cuda", "cpu_kernels", "compiler", "grpc", "protobuf"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(RunProgram({"--version"}).out, "outrider " + json["version"].get<std::string>() + "\n");
}

TEST(Commands, HealthOfNobodyIsOneAndSaysSo) {
  const ProgramResult result = RunProgram({"health", "--metrics-address", "unix:/nowhere/s", "--json"});
  EXPECT_EQ(result.exit_code, 1);
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["ready"], false);
  EXPECT_NE(json["reason"].get<std::string>().find("/nowhere/s"), std::string::npos);
  EXPECT_EQ(RunProgram({"health", "--timeout", "0"}).exit_code, 2);
  EXPECT_EQ(RunProgram({"health", "--address", "a:1", "--metrics-address", "b:1"}).exit_code, 2);
}

TEST(Commands, KeyDrawsAnotherEachTimeAndTellsItApartFromItsLine) {
  const ProgramResult first = RunProgram({"key", "alice", "--tokens-per-minute", "1000"});
  const ProgramResult second = RunProgram({"key", "alice", "--json"});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_EQ(first.out.find("alice sha256:"), 0u) << first.out;
  EXPECT_NE(first.out.find(" tokens_per_minute=1000\n"), std::string::npos) << first.out;
  EXPECT_NE(first.err.find("the key of alice, shown this once: or-"), std::string::npos) << first.err;
  const Json json = Json::parse(second.out);
  EXPECT_EQ(json["line"].get<std::string>().find(json["key"].get<std::string>()), std::string::npos);
  EXPECT_NE(first.out.substr(0, 77), json["line"].get<std::string>().substr(0, 77));
  EXPECT_EQ(RunProgram({"key"}).exit_code, 2);
  EXPECT_EQ(RunProgram({"key", "a b"}).exit_code, 2);
  EXPECT_EQ(RunProgram({"key", "a", "--tokens-per-minute", "0"}).exit_code, 2);
}

TEST(Commands, ConfigDumpTellsValueAndSourceOfEverySetting) {
  const std::string file = WriteFile("router.yaml", "grpc_port: 9001\nreplay_burst: 7\n");
  const ProgramResult dump = RunProgram({"config", "dump", "router", "--config", file, "--json", "--replay-burst", "8"},
                                        "", {"OUTRIDER_LOG_FORMAT=json"});
  ASSERT_EQ(dump.exit_code, 0) << dump.err;
  std::map<std::string, Json> settings;
  for (const Json& entry : Json::parse(dump.out)) settings[entry["name"]] = entry;
  EXPECT_EQ(settings["grpc_port"]["value"], 9001);
  EXPECT_EQ(settings["grpc_port"]["place"], file + ":1");
  EXPECT_EQ(settings["replay_burst"]["value"], 8);
  EXPECT_EQ(settings["replay_burst"]["source"], "flag");
  EXPECT_EQ(settings["log_format"]["source"], "environment");
  EXPECT_EQ(settings["host"]["source"], "default");
  EXPECT_EQ(settings["host"]["value"], settings["host"]["default"]);
}

TEST(Commands, ConfigCheckRefusesWhatAProcessWouldRefuse) {
  const ProgramResult good = RunProgram({"config", "check", "target", "--rank", "1"});
  EXPECT_EQ(good.exit_code, 0);
  EXPECT_EQ(good.out.find("ok: 1 of "), 0u) << good.out;
  const std::string file = WriteFile("bad.yaml", "model: a\nmax_modle_len: 5\n");
  const ProgramResult bad = RunProgram({"config", "check", "target", "--config", file});
  EXPECT_EQ(bad.exit_code, 2);
  EXPECT_NE(bad.err.find(":2: unknown setting 'max_modle_len'; did you mean 'max_model_len'?"), std::string::npos)
      << bad.err;
}

TEST(Commands, AVariableWrittenWrongIsRefusedAndAForeignOneIsToldOf) {
  for (const std::vector<std::string>& command : {std::vector<std::string>{"config", "check", "router"}, {"router"}}) {
    const ProgramResult wrong = RunProgram(command, "", {"OUTRIDER_GRPC_PROT=9001"});
    EXPECT_EQ(wrong.exit_code, 2);
    EXPECT_NE(wrong.err.find("OUTRIDER_GRPC_PROT is no setting; did you mean OUTRIDER_GRPC_PORT?"), std::string::npos)
        << wrong.err;
  }
  const ProgramResult foreign = RunProgram({"config", "check", "router"}, "", {"OUTRIDER_COLOUR=red"});
  EXPECT_EQ(foreign.exit_code, 0);
  EXPECT_NE(foreign.err.find("OUTRIDER_COLOUR is no setting and has no effect"), std::string::npos) << foreign.err;
}

TEST(Commands, BenchServeNamesTheFlagThatIsWrongBeforeItAsksAnybody) {
  const auto message = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"bench", "serve", "--address", "unix:/nowhere/s"});
    const ProgramResult result = RunProgram(arguments);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    return result.err;
  };
  EXPECT_NE(message({"--request-rate", "0"}).find("--request-rate 0 is out of range"), std::string::npos);
  EXPECT_NE(message({"--burstiness", "x"}).find("--burstiness 'x' is neither"), std::string::npos);
  EXPECT_NE(message({"--goodput", "itl:3"}).find("'itl' is none of"), std::string::npos);
  EXPECT_NE(message({"--percentile-metrics", "ttft,foo"}).find("'foo' is none of"), std::string::npos);
  EXPECT_NE(message({"--metric-percentiles", "101"}).find("'101' is no number from 0 to 100"), std::string::npos);
  EXPECT_NE(message({"--ramp-up-strategy", "linear"}).find("--ramp-up-start-rps 0"), std::string::npos);
  EXPECT_NE(message({"--metadata", "x"}).find("KEY=VALUE"), std::string::npos);
  EXPECT_NE(message({"--backend", "tgi"}).find("--backend"), std::string::npos);
  EXPECT_NE(message({"--base-url", "http://a"}).find("--backend openai"), std::string::npos);
  EXPECT_NE(message({"--backend", "openai", "--base-url", "http://a"}).find("give one of"), std::string::npos);
  EXPECT_NE(message({"--backend", "openai", "--tls-authorities", "/none.pem"}).find("/none.pem"), std::string::npos);
}

TEST(Commands, WithoutArgumentsTheCommandsAreListed) {
  const ProgramResult result = RunProgram({});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(result.err.find("serve"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("chat"), std::string::npos);
}

TEST(Commands, GenerateNamesTheFlagWhoseValueIsNone) {
  const std::vector<std::string> before = {"generate", "--address", "unix:/nowhere/s", "--prompt", "x"};
  const auto message = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = before;
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const ProgramResult result = RunProgram(arguments);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    return result.err;
  };
  EXPECT_NE(message({"--logit-bias", "5"}).find("--logit-bias '5'"), std::string::npos);
  EXPECT_NE(message({"--logit-bias", "5=1,6=x"}).find("'6=x'"), std::string::npos);
  EXPECT_NE(message({"--acceptance", "loose"}).find("--acceptance"), std::string::npos);
  EXPECT_NE(message({"--priority", "17"}).find("--priority"), std::string::npos);
}

TEST(Commands, DoctorNamesAPortThatIsTakenAndItsRemedy) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(fd, 1), 0);
  ASSERT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string port = std::to_string(ntohs(address.sin_port));
  const ProgramResult result = RunProgram({"doctor", "--grpc-port", port, "--metrics-port", "0", "--http-port", "0",
                                           "--peers", "127.0.0.1:" + port + ",nowhere", "--json"});
  ::close(fd);
  EXPECT_EQ(result.exit_code, 1);
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["ok"], false);
  int num_seen = 0;
  for (const Json& finding : json["findings"]) {
    const std::string found = finding["found"];
    if (finding["check"] == "port grpc") {
      EXPECT_EQ(finding["level"], "error");
      EXPECT_NE(found.find(port), std::string::npos) << found;
      EXPECT_NE(finding["remedy"].get<std::string>().find("--grpc-port"), std::string::npos);
      ++num_seen;
    }
    if (finding["check"] == "peer") {
      EXPECT_EQ(finding["level"] == "error", found.find("nowhere") == 0) << found;
      ++num_seen;
    }
  }
  EXPECT_EQ(num_seen, 3);
}

TEST(Commands, TopAndChatSayThatNobodyAnswers) {
  const ProgramResult top = RunProgram({"top", "--once", "--metrics-address", "unix:/nowhere/s"});
  EXPECT_EQ(top.exit_code, 1);
  EXPECT_NE(top.err.find("is `outrider serve` running"), std::string::npos) << top.err;
  EXPECT_EQ(RunProgram({"top", "--interval", "0"}).exit_code, 2);
  EXPECT_EQ(RunProgram({"top", "--metrics-address", "nonsense", "--once"}).exit_code, 2);
}

TEST(Commands, HelpOfEachCommandEndsWithAnExample) {
  for (const std::vector<std::string>& command : {std::vector<std::string>{"serve"},
                                                  {"chat"},
                                                  {"generate"},
                                                  {"top"},
                                                  {"health"},
                                                  {"doctor"},
                                                  {"inspect"},
                                                  {"bench", "serve"},
                                                  {"bench", "engine"},
                                                  {"config"},
                                                  {"config", "check", "router"},
                                                  {"version"},
                                                  {"completion"},
                                                  {"man"},
                                                  {"router"},
                                                  {"target"},
                                                  {"draft"}}) {
    std::vector<std::string> arguments = command;
    arguments.push_back("--help");
    const ProgramResult help = RunProgram(arguments);
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_NE(help.out.find("Example"), std::string::npos) << command[0];
  }
}

TEST(Commands, FlagsOfVllmAreTakenOrToldWhatToUse) {
  const ProgramResult result = RunProgram({"serve", "/nowhere.gguf", "-tp", "2", "--max-num-seqs", "4"});
  EXPECT_EQ(result.err.find("unknown flag"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("/nowhere.gguf"), std::string::npos) << result.err;
  const ProgramResult refused = RunProgram({"serve", "m", "--quantization", "fp8"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_EQ(refused.err.find("outrider serve: --quantization: the model's file says"), 0u) << refused.err;
}

}  // namespace
}  // namespace outrider
