// Commands that ask a cluster, run as people run them.

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/testing/run_program.h"
#include "tests/integration/cluster_fixture.h"

namespace outrider {
namespace {

using Json = nlohmann::json;

// One cluster for all tests of the program.
class Command : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ClusterOptions options = TestCluster();
    // auto may find that drafts do not pay.
    options.lookahead = "3";
    cluster_ = StartCluster(options).release();
  }
  static void TearDownTestSuite() {
    delete cluster_;
    cluster_ = nullptr;
  }
  void SetUp() override { ASSERT_NE(cluster_, nullptr); }

  static ChildCluster* cluster_;
};
ChildCluster* Command::cluster_ = nullptr;

TEST_F(Command, HealthOfAServingClusterIsZero) {
  const ProgramResult pages = RunProgram({"health", "--metrics-address", cluster_->metrics_address()});
  EXPECT_EQ(pages.exit_code, 0) << pages.out;
  EXPECT_EQ(pages.out, "ready\n");
  const ProgramResult rpc =
      RunProgram({"health", "--address", cluster_->grpc_address(), "--service", "outrider.v1.Inference", "--json"});
  EXPECT_EQ(rpc.exit_code, 0) << rpc.out;
  EXPECT_EQ(Json::parse(rpc.out)["ready"], true);
  EXPECT_EQ(RunProgram({"health", "--address", cluster_->grpc_address(), "--service", "nobody"}).exit_code, 1);
}

TEST_F(Command, BenchServeCountsWhatTheClusterDid) {
  const std::string folder = testing::TempDir() + "/bench_" + std::to_string(::getpid());
  const ProgramResult result = RunProgram({"bench",
                                           "serve",
                                           "--address",
                                           cluster_->grpc_address(),
                                           "--metrics-address",
                                           cluster_->metrics_address(),
                                           "--num-prompts",
                                           "12",
                                           "--request-rate",
                                           "100",
                                           "--random-input-len",
                                           "16",
                                           "--random-output-len",
                                           "10",
                                           "--temperature",
                                           "0",
                                           "--goodput",
                                           "e2el:60000",
                                           "--num-warmups",
                                           "1",
                                           "--json",
                                           "--save-result",
                                           "--save-detailed",
                                           "--result-dir",
                                           folder,
                                           "--result-filename",
                                           "r.json",
                                           "--metadata",
                                           "a=b"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["completed"], 12) << result.err;
  EXPECT_EQ(json["failed"], 0);
  EXPECT_EQ(json["total_input_tokens"], 12 * 16);
  EXPECT_EQ(json["total_output_tokens"], 12 * 10);
  EXPECT_EQ(json["request_goodput"], json["request_throughput"]);
  EXPECT_GT(json["mean_ttft_ms"], 0);
  EXPECT_EQ(json["a"], "b");
  EXPECT_EQ(json["ttfts"].size(), 12u);
  // The draft model is the target: nearly all drafts are accepted.
  EXPECT_GT(json["spec_decode_acceptance_rate"], 50);
  EXPECT_FALSE(json["spec_decode_per_position_acceptance_rates"].empty());
  std::ifstream file(folder + "/r.json");
  EXPECT_EQ(Json::parse(file), json);
}

TEST_F(Command, BenchServeOverHttpCountsWhatTheClusterDid) {
  for (const bool chat : {false, true}) {
    const std::string path = testing::TempDir() + "/http_prompts_" + std::to_string(::getpid()) + ".jsonl";
    std::ofstream(path) << "{\"prompt\": \"Once upon a time\", \"output_tokens\": 8}\n";
    std::vector<std::string> arguments = {"bench",         "serve",
                                          "--backend",     chat ? "openai-chat" : "openai",
                                          "--base-url",    "http://" + cluster_->http_address(),
                                          "--num-prompts", "6",
                                          "--json",        "--ignore-eos",
                                          "--temperature", "0"};
    for (const char* const argument : {"--dataset-name", "custom", "--dataset-path"}) {
      if (chat) arguments.push_back(argument);
    }
    arguments.insert(arguments.end(),
                     {chat ? path : "--random-input-len=16", chat ? "--seed=1" : "--random-output-len=8"});
    const auto draft_tokens = [] {
      return static_cast<int64_t>(MetricSum(cluster_->metrics_address(), "outrider_draft_tokens_total"));
    };
    const int64_t draft_tokens_before = draft_tokens();
    const ProgramResult result = RunProgram(arguments);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const Json json = Json::parse(result.out);
    EXPECT_EQ(json["completed"], 6);
    EXPECT_EQ(json["total_output_tokens"], 48);
    EXPECT_EQ(json["backend"], chat ? "openai-chat" : "openai");
    // As many as the groups say, also none: on a busy machine no draft may come in time.
    EXPECT_EQ(json.value("spec_decode_draft_tokens", int64_t{0}), draft_tokens() - draft_tokens_before);
    EXPECT_GT(json["mean_ttft_ms"], 0);
  }
}

TEST_F(Command, TopShowsTheClusterForPeopleAndForPrograms) {
  const ProgramResult json =
      RunProgram({"top", "--json", "--interval", "0.1", "--metrics-address", cluster_->metrics_address()});
  ASSERT_EQ(json.exit_code, 0) << json.err;
  const Json view = Json::parse(json.out);
  EXPECT_EQ(view["groups_serving"], 1);
  ASSERT_EQ(view["group_list"].size(), 1u);
  EXPECT_EQ(view["group_list"][0]["name"], "group-0");
  EXPECT_EQ(view["draft_list"].size(), 1u);
  EXPECT_EQ(view["processes"].size(), 3u);
  const ProgramResult text =
      RunProgram({"top", "--once", "--interval", "0.1", "--metrics-address", cluster_->metrics_address()});
  EXPECT_NE(text.out.find("1 of 1 groups serve, 1 draft workers"), std::string::npos) << text.out;
  EXPECT_EQ(text.out.find('\x1b'), std::string::npos);
}

TEST_F(Command, BenchServePrintsTheReportAndFailsIfNothingSucceeded) {
  const std::string path = testing::TempDir() + "/prompts_" + std::to_string(::getpid()) + ".jsonl";
  std::ofstream(path) << "{\"prompt\": \"Once upon a time\", \"output_tokens\": 4}\n";
  const std::vector<std::string> arguments = {"bench",          "serve",  "--address",         cluster_->grpc_address(),
                                              "--dataset-name", "custom", "--dataset-path",    path,
                                              "--num-prompts",  "3",      "--max-concurrency", "1"};
  const ProgramResult good = RunProgram(arguments);
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_EQ(
      good.out.find("============ Serving Benchmark Result ============\nSuccessful requests:                     3"),
      0u)
      << good.out;
  EXPECT_NE(good.out.find("Maximum request concurrency:             1"), std::string::npos);
  std::ofstream(path) << "{\"prompt\": \"a\", \"temperature\": -1}\n";
  const ProgramResult bad = RunProgram(arguments);
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_NE(bad.err.find("request 0: INVALID_ARGUMENT"), std::string::npos) << bad.err;
  EXPECT_NE(bad.err.find("no request succeeded"), std::string::npos);
}

}  // namespace
}  // namespace outrider
