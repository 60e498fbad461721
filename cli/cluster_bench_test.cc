#include "cli/cluster_bench.h"

#include <filesystem>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "worker/model/testing/hf_writer.h"

namespace outrider {
namespace {

// Small, but with steps that last long enough for drafts to come in time.
std::string Shape() {
  const std::string folder = MakeTestFolder();
  nlohmann::json config = SmallHfConfig("Qwen3ForCausalLM");
  config["num_hidden_layers"] = 6;
  config["intermediate_size"] = 4096;
  WriteFileIn(folder, "config.json", config.dump());
  return folder;
}

ClusterBenchOptions SmallBench() {
  ClusterBenchOptions options;
  options.cluster.model = Shape();
  options.cluster.draft_model = Shape();
  options.cluster.load_format = "dummy";
  options.cluster.device = "cpu";
  options.cluster.threads = 2;
  options.batch = {1, 3};
  options.prompt_tokens = 20;
  options.output_tokens = 60;
  return options;
}

absl::StatusOr<nlohmann::ordered_json> Measured(const ClusterBenchOptions& options) {
  return BenchCluster(options, std::filesystem::canonical("outrider").string());
}

TEST(ClusterBench, ReplaysWhatTheRunWithoutDraftsPutOut) {
  ClusterBenchOptions options = SmallBench();
  options.draft_acceptance = 1;
  options.record = MakeTestFolder() + "/outputs.jsonl";
  const auto result = Measured(options);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ((*result)["cases"].size(), 4u);
  for (const auto& entry : (*result)["cases"]) {
    EXPECT_GT(entry["output_tokens_per_second"], 0) << entry;
    EXPECT_EQ(entry["requests"], entry["batch"]);
    EXPECT_GT(entry["times"][entry["drafts"] ? "verify_steps" : "decode_steps"]["mean_ms"], 0) << entry;
    EXPECT_EQ(entry["times"].contains("draft_steps"), entry["drafts"].get<bool>()) << entry;
    if (!entry["drafts"]) continue;
    EXPECT_GT(entry["draft_tokens"], 0) << entry;
    EXPECT_EQ(entry["accepted_tokens"], entry["draft_tokens"]) << entry;
  }
  EXPECT_EQ((*result)["cases"][3]["batch"], 3);
  EXPECT_TRUE(absl::StrContains(ClusterBenchText(*result), "right by a chance of 1"));

  options.recorded = options.record;
  options.record.clear();
  options.draft_acceptance = 0;
  const auto wrong = Measured(options);
  ASSERT_TRUE(wrong.ok()) << wrong.status();
  ASSERT_EQ((*wrong)["cases"].size(), 2u);
  for (const auto& entry : (*wrong)["cases"]) {
    EXPECT_GT(entry["draft_tokens"], 0) << entry;
    EXPECT_EQ(entry["accepted_tokens"], 0) << entry;
  }
}

TEST(ClusterBench, LetsTheClusterChooseHowManyDraftTokens) {
  ClusterBenchOptions options = SmallBench();
  options.draft_acceptance = 1;
  options.lookahead = kLookaheadAuto;
  options.batch = {2};
  const auto result = Measured(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["lookahead"], "auto");
  ASSERT_EQ((*result)["cases"].size(), 2u);
  // Warm-ups are replayed as well, so nothing but right drafts was ever seen.
  EXPECT_EQ((*result)["cases"][1]["accepted_tokens"], (*result)["cases"][1]["draft_tokens"]);
  EXPECT_TRUE(absl::StrContains(ClusterBenchText(*result), "drafts of as many as pay"));
}

TEST(ClusterBench, MeasuresMoreRequestsThanAtOnceAndWithoutADraftModel) {
  ClusterBenchOptions options = SmallBench();
  options.cluster.draft_model.clear();
  options.batch = {2};
  options.requests = 5;
  const auto result = Measured(options);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ((*result)["cases"].size(), 1u);
  const auto& entry = (*result)["cases"][0];
  EXPECT_EQ(entry["requests"], 5);
  EXPECT_FALSE(entry["drafts"]);
  EXPECT_FALSE(entry.contains("rounds"));
  EXPECT_GT(entry["decode_tokens_per_second"], 0) << entry;
}

TEST(ClusterBench, NamesTheFlagThatIsWrong) {
  const auto message = [](void (*change)(ClusterBenchOptions&)) {
    ClusterBenchOptions options = SmallBench();
    change(options);
    return std::string(Validate(options).message());
  };
  const std::pair<void (*)(ClusterBenchOptions&), const char*> wrongs[] = {
      {[](ClusterBenchOptions& o) { o.cluster.model.clear(); }, "give a MODEL"},
      {[](ClusterBenchOptions& o) {
         o.batch = {1, 2000};
       },
       "--batch 2000 is out of range; it takes 1 to 1024"},
      {[](ClusterBenchOptions& o) { o.batch.clear(); }, "--batch takes at least one number"},
      {[](ClusterBenchOptions& o) { o.prompt_tokens = 0; }, "--prompt 0"},
      {[](ClusterBenchOptions& o) { o.output_tokens = 1; }, "--output 1"},
      {[](ClusterBenchOptions& o) { o.lookahead = 33; }, "--lookahead 33"},
      {[](ClusterBenchOptions& o) { o.lookahead = 0; }, "--lookahead 0"},
      {[](ClusterBenchOptions& o) { o.draft_acceptance = 2; }, "--draft-acceptance is 2"},
      {[](ClusterBenchOptions& o) {
         o.cluster.draft_model.clear();
         o.draft_acceptance = 1;
       },
       "need --draft-model"},
  };
  for (const auto& [change, says] : wrongs) EXPECT_TRUE(absl::StrContains(message(change), says)) << message(change);
  EXPECT_TRUE(Validate(SmallBench()).ok());
  ClusterBenchOptions chosen = SmallBench();
  chosen.lookahead = kLookaheadAuto;
  EXPECT_TRUE(Validate(chosen).ok());
}

}  // namespace
}  // namespace outrider
