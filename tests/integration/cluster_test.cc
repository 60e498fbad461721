// The whole path with every process real: ids do not depend on drafts, ranks restart, nothing outlives the cluster.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "tests/integration/cluster_fixture.h"

namespace outrider {
namespace {

constexpr int kNumPrompts = 6;
constexpr int kMaxTokens = 40;

std::vector<v1::GenerateRequest> Requests(bool draft, int lookahead) {
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < kNumPrompts; ++i) {
    v1::GenerateRequest request = TestRequest(i, /*greedy=*/i % 2 == 0, kMaxTokens);
    request.set_draft(draft);
    request.set_lookahead(lookahead);
    requests.push_back(request);
  }
  return requests;
}

std::vector<std::vector<int32_t>> Ids(const std::vector<RequestOutcome>& outcomes) {
  std::vector<std::vector<int32_t>> ids;
  for (const RequestOutcome& outcome : outcomes) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.message();
    ids.push_back(outcome.choices.at(0).output_token_ids);
    EXPECT_EQ(ids.back().size(), kMaxTokens);
  }
  return ids;
}

class ExactCluster : public ::testing::TestWithParam<int> {};

TEST_P(ExactCluster, GivesTheSameIdsWhateverIsDrafted) {
  ClusterOptions options = TestCluster();
  options.tensor_parallel_size = GetParam();
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  const auto expected = Ids(Generate(*cluster, Requests(/*draft=*/false, 0)));
  ASSERT_EQ(expected.size(), kNumPrompts);
  for (const int lookahead : {1, 4, 8, -1}) {
    for (const int concurrency : {1, kNumPrompts}) {
      const auto outcomes = Generate(*cluster, Requests(/*draft=*/true, lookahead), concurrency);
      EXPECT_EQ(Ids(outcomes), expected) << "lookahead " << lookahead << ", concurrency " << concurrency;
      uint32_t drafted = 0, accepted = 0;
      for (const RequestOutcome& outcome : outcomes) {
        drafted += outcome.choices[0].finished.usage().draft_tokens();
        accepted += outcome.choices[0].finished.usage().accepted_tokens();
      }
      if (lookahead > 0) {
        EXPECT_GT(drafted, 0) << "lookahead " << lookahead;
        // The draft model is the target: with one rank its arithmetic is the target's own.
        if (GetParam() == 1 && concurrency == 1) {
          EXPECT_EQ(accepted, drafted) << "lookahead " << lookahead;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ExactCluster, ::testing::Values(1, 2));

TEST(Cluster, TellsThePromptsLogprobsAndWhatAPredictionGave) {
  const auto cluster = StartCluster(TestCluster());
  ASSERT_NE(cluster, nullptr);
  v1::GenerateRequest request = TestRequest(0, /*greedy=*/true, kMaxTokens);
  request.set_draft(false);
  const RequestOutcome plain = Generate(*cluster, {request}).at(0);
  ASSERT_TRUE(plain.status.ok()) << plain.status.message();
  EXPECT_TRUE(plain.prompt_logprobs.empty());
  request.set_prompt_logprobs(1);
  request.set_prediction(plain.choices[0].text);
  request.set_draft(true);
  const RequestOutcome outcome = Generate(*cluster, {request}).at(0);
  EXPECT_EQ(Ids({outcome}), Ids({plain}));
  EXPECT_EQ(outcome.prompt_logprobs.size() + 1, outcome.started.prompt_token_ids_size());
  EXPECT_GT(outcome.choices[0].finished.usage().accepted_prediction_tokens(), 0u);
  const std::string json = ChoiceJson(0, 0, outcome);
  EXPECT_NE(json.find("\"prompt_logprobs\":[null,{\"logprob\":"), std::string::npos) << json;
  EXPECT_NE(json.find("\"accepted_prediction_tokens\":"), std::string::npos) << json;
  EXPECT_EQ(ChoiceJson(0, 0, plain).find("prompt_logprobs"), std::string::npos);
}

TEST(Cluster, GoesOnWithTheSameIdsWhenItsDraftWorkerIsKilled) {
  const auto cluster = StartCluster(TestCluster());
  ASSERT_NE(cluster, nullptr);
  const auto expected = Ids(Generate(*cluster, Requests(false, 0)));
  const auto killed = ChildrenWith(cluster->pid(), {"--worker-id="});
  ASSERT_EQ(killed.size(), 1);
  std::thread killer([&] { ::kill(killed[0], SIGKILL); });
  EXPECT_EQ(Ids(Generate(*cluster, Requests(true, 4), kNumPrompts)), expected);
  killer.join();
  EXPECT_NE(::kill(killed[0], 0), 0);  // it did take effect
}

TEST(Cluster, RestartsAGroupWhoseRankIsKilledAndServesTheSameIds) {
  ClusterOptions options = TestCluster();
  options.tensor_parallel_size = 2;
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  const auto expected = Ids(Generate(*cluster, Requests(false, 0)));
  for (const char* rank : {"--rank=1", "--rank=0"}) {
    const auto killed = ChildrenWith(cluster->pid(), {"target", rank});
    ASSERT_EQ(killed.size(), 1) << rank;
    ::kill(killed[0], SIGKILL);
    EXPECT_EQ(Ids(Generate(*cluster, Requests(true, 4))), expected) << "after " << rank << " was killed";
    const auto now = ChildrenWith(cluster->pid(), {"target", rank});
    ASSERT_EQ(now.size(), 1) << rank;
    EXPECT_NE(now[0], killed[0]) << rank;
  }
}

TEST(Cluster, ServesWithoutADraftModelAndDraftsFromItsOwnText) {
  ClusterOptions options = TestCluster();
  options.draft_model.clear();
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  v1::GenerateRequest request = TestRequest(0, /*greedy=*/true, kMaxTokens);
  request.set_prompt("one two three four five one two three four five one two three four five one two");
  request.set_draft(false);
  const auto plain = Generate(*cluster, {request});
  request.set_draft(true);
  request.set_lookahead(4);
  const auto drafted = Generate(*cluster, {request});
  EXPECT_EQ(Ids(drafted), Ids(plain));
  EXPECT_GT(drafted[0].choices[0].finished.usage().accepted_tokens(), 0);
}

// Folders in Hugging Face's layout without a tokenizer: token ids are served, text is refused with what to do.
TEST(Cluster, ServesTokenIdsOfHuggingFaceFoldersExactly) {
  ClusterOptions options = TestCluster();
  for (const char* name : {"qwen3", "mistral-window"}) {
    options.model = TestdataFolder(name);
    options.draft_model = TestdataFolder("llama");
    options.tensor_parallel_size = 2;
    options.max_model_len = 256;
    const auto cluster = StartCluster(options);
    ASSERT_NE(cluster, nullptr);
    const auto requests = [](bool draft, int lookahead) {
      std::vector<v1::GenerateRequest> made = Requests(draft, lookahead);
      for (size_t i = 0; i < made.size(); ++i) {
        made[i].clear_prompt();
        for (size_t t = 0; t < 3 + 11 * i; ++t)
          made[i].add_prompt_token_ids(static_cast<int32_t>(3 + (t * t + i) % 300));
      }
      return made;
    };
    const auto expected = Ids(Generate(*cluster, requests(false, 0)));
    for (const int lookahead : {3, 8}) {
      EXPECT_EQ(Ids(Generate(*cluster, requests(true, lookahead), kNumPrompts)), expected) << name;
    }
    const auto text = Generate(*cluster, Requests(false, 0));
    EXPECT_NE(text[0].status.message().find("has no tokenizer; send prompt_token_ids"), std::string::npos)
        << text[0].status.message();
  }
}

TEST(Cluster, SamplesAsTheModelRecommendsWhereARequestLeavesItOpen) {
  namespace fs = std::filesystem;
  const fs::path made = TestdataFolder("qwen3"), folder = testing::TempDir() + "/recommending";
  fs::create_directories(folder);
  for (const char* file : {"config.json", "model.safetensors"}) fs::create_symlink(made / file, folder / file);
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": 2, "temperature": 0.0})";
  ClusterOptions options = TestCluster();
  options.model = folder.string();
  options.draft_model.clear();
  options.max_model_len = 256;
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  v1::GenerateRequest greedy;
  for (const int32_t id : {5, 9, 300, 17}) greedy.add_prompt_token_ids(id);
  greedy.set_max_tokens(kMaxTokens);
  greedy.set_ignore_eos(true);
  greedy.set_seed(7);
  v1::GenerateRequest open = greedy, sampled = greedy;
  greedy.set_temperature(0);
  sampled.set_temperature(1);
  const auto ids = Ids(Generate(*cluster, {greedy, open, sampled}));
  EXPECT_EQ(ids[1], ids[0]);
  EXPECT_NE(ids[2], ids[0]);
}

TEST(Cluster, ServesDummyWeightsOfAConfiguration) {
  const std::string folder = ::testing::TempDir() + "/dummy";
  std::filesystem::create_directory(folder);
  std::filesystem::copy_file(TestdataFolder("llama") + "/config.json", folder + "/config.json",
                             std::filesystem::copy_options::overwrite_existing);
  ClusterOptions options = TestCluster();
  options.max_model_len = 0;
  options.model = options.draft_model = folder;
  options.load_format = "dummy";
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  v1::GenerateRequest request = TestRequest(0, /*greedy=*/true, kMaxTokens);
  request.clear_prompt();
  for (const int32_t id : {5, 9, 77, 31, 5, 9}) request.add_prompt_token_ids(id);
  request.set_draft(false);
  const auto plain = Ids(Generate(*cluster, {request}));
  request.set_draft(true);
  request.set_lookahead(4);
  const auto drafted = Generate(*cluster, {request});
  EXPECT_EQ(Ids(drafted), plain);
  EXPECT_GT(drafted[0].choices[0].finished.usage().draft_tokens(), 0);
}

TEST(Cluster, NothingOutlivesServeKilledByForce) {
  const auto cluster = StartCluster(TestCluster());
  ASSERT_NE(cluster, nullptr);
  const auto children = ChildrenWith(cluster->pid(), {});
  EXPECT_EQ(children.size(), 3);  // router, one rank, one draft worker
  ::kill(cluster->pid(), SIGKILL);
  for (const pid_t child : children) {
    while (::kill(child, 0) == 0 && !ChildrenWith(1, {}).empty()) {
      std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
      std::string line;
      std::getline(stat, line);
      if (line.find(") Z") != std::string::npos) break;  // ended; init has yet to collect it
    }
  }
}

TEST(Cluster, EndsAtOnceWithACauseWhenItCanNotStart) {
  ClusterOptions options = TestCluster();
  options.model = "/nowhere/model.gguf";
  EXPECT_FALSE(ChildCluster::Start(options, std::filesystem::canonical("outrider").string()).ok());
  options = TestCluster();
  options.tensor_parallel_size = 5;  // the model has four heads
  EXPECT_FALSE(ChildCluster::Start(options, std::filesystem::canonical("outrider").string()).ok());
  const auto cluster = StartCluster(TestCluster());
  ASSERT_NE(cluster, nullptr);
  options = TestCluster();
  options.grpc_port = std::stoi(cluster->grpc_address().substr(cluster->grpc_address().rfind(':') + 1));
  EXPECT_FALSE(ChildCluster::Start(options, std::filesystem::canonical("outrider").string()).ok());
}

}  // namespace
}  // namespace outrider
