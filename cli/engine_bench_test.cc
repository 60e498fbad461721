#include "cli/engine_bench.h"

#include <filesystem>
#include <map>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "worker/model/testing/hf_writer.h"

namespace outrider {
namespace {

EngineBenchOptions SmallBench() {
  EngineBenchOptions options;
  options.model = MakeTestFolder();
  WriteFileIn(options.model, "config.json", SmallHfConfig("Qwen3ForCausalLM").dump());
  options.load_format = LoadFormat::kDummy;
  options.threads = 2;
  options.context = 20;
  options.prompt = 30;
  options.chunk = 16;
  options.steps = 3;
  options.batch = {1, 3};
  options.rows = {1, 5};
  return options;
}

absl::StatusOr<nlohmann::ordered_json> Measured(const EngineBenchOptions& options) {
  return BenchEngine(options, std::filesystem::canonical("outrider").string());
}

TEST(EngineBench, MeasuresWhatWasAskedForOnAnyNumberOfRanks) {
  for (const int ranks : {1, 2}) {
    EngineBenchOptions options = SmallBench();
    options.tensor_parallel_size = ranks;
    const auto result = Measured(options);
    ASSERT_TRUE(result.ok()) << result.status();
    const nlohmann::ordered_json& json = *result;
    ASSERT_EQ(json["decode"].size(), 2u);
    ASSERT_EQ(json["verify"].size(), 2u);
    EXPECT_EQ(json["decode"][1]["sequences"], 3);
    EXPECT_EQ(json["verify"][1]["rows"], 5);
    // 20 positions of 2 layers: keys and values of 2 heads of 16 in F16, divided over the ranks.
    EXPECT_EQ(json["decode"][0]["kv_bytes"], 20 * 2 * 2 * 2 * 16 * 2 / ranks);
    EXPECT_EQ(json["decode"][1]["kv_bytes"], 3 * 20 * 2 * 2 * 2 * 16 * 2 / ranks);
    EXPECT_GT(json["weight_bytes"], 0);
    EXPECT_GT(json["read_bytes_per_second"], 0);
    for (const auto& entry : {json["decode"][0], json["verify"][1], json["prompt"]}) {
      EXPECT_GT(entry["median_ms"], 0);
      EXPECT_LE(entry["p10_ms"], entry["median_ms"]);
      EXPECT_LE(entry["median_ms"], entry["p90_ms"]);
    }
    EXPECT_EQ(json["decode"][0]["samples"], 3);
    EXPECT_FALSE(json["decode"][0].contains("ops"));
    const std::string text = EngineBenchText(json);
    EXPECT_TRUE(absl::StrContains(text, "decode,    3 sequences")) << text;
    EXPECT_TRUE(absl::StrContains(text, "of the read rate")) << text;
  }
}

TEST(EngineBench, SaysWhereTheTimeOfAStepGoes) {
  for (const int ranks : {1, 2}) {
    EngineBenchOptions options = SmallBench();
    options.tensor_parallel_size = ranks;
    options.profile = true;
    const auto result = Measured(options);
    ASSERT_TRUE(result.ok()) << result.status();
    for (const auto& entry : {(*result)["decode"][1], (*result)["verify"][1]}) {
      std::map<std::string, int> counts;
      for (const auto& op : entry["ops"]) {
        counts[op["op"]] = op["count"];
        EXPECT_GT(op["ms"], 0) << op;
      }
      std::map<std::string, int> expected = {{"embed", 1},   {"qkv", 2},  {"attention", 2}, {"attention_output", 2},
                                             {"gate_up", 2}, {"down", 2}, {"head", 1},      {"sample", 1}};
      if (ranks > 1) expected["all_reduce"] = 4;
      EXPECT_EQ(counts, expected);
    }
    EXPECT_TRUE(absl::StrContains(EngineBenchText(*result), "gate_up"));
  }
}

TEST(EngineBench, SamplesAsAskedFor) {
  EngineBenchOptions options = SmallBench();
  options.sampling = {.temperature = 0.8f, .top_p = 0.95f, .top_k = 40, .repetition_penalty = 1.1f, .num_logprobs = 2};
  const auto result = Measured(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["sampling"]["top_k"], 40);
  const std::string text = EngineBenchText(*result);
  EXPECT_TRUE(absl::StrContains(text, "temperature 0.8, top_k 40, top_p 0.95, repetition penalty 1.1, 2 logprobs"))
      << text;
}

// Its own words are on standard error.
TEST(EngineBench, ARankThatDoesNotComeUpEndsIt) {
  EngineBenchOptions options = SmallBench();
  options.tensor_parallel_size = 2;
  const auto result = BenchEngine(options, "/bin/false");
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable) << result.status();
}

TEST(EngineBench, NamesTheFlagThatIsWrong) {
  const auto message = [](void (*change)(EngineBenchOptions&)) {
    EngineBenchOptions options = SmallBench();
    change(options);
    return std::string(BenchEngine(options).status().message());
  };
  const std::pair<void (*)(EngineBenchOptions&), const char*> wrongs[] = {
      {[](EngineBenchOptions& o) { o.model.clear(); }, "give a MODEL"},
      {[](EngineBenchOptions& o) { o.batch = {0}; }, "--batch 0 is out of range; it takes 1 to 4096"},
      {[](EngineBenchOptions& o) { o.rows = {34}; }, "--rows 34 is out of range"},
      {[](EngineBenchOptions& o) { o.rows.clear(); }, "at least one number"},
      {[](EngineBenchOptions& o) { o.steps = 0; }, "--steps 0"},
      {[](EngineBenchOptions& o) { o.sampling.top_p = 0; }, "top_p = 0 is out of range"},
      {[](EngineBenchOptions& o) { o.context = 600; }, "takes 512"},
  };
  for (const auto& [change, says] : wrongs) EXPECT_TRUE(absl::StrContains(message(change), says)) << message(change);
}

}  // namespace
}  // namespace outrider
