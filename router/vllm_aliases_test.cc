#include "router/vllm_aliases.h"

#include <gtest/gtest.h>

#include <set>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/metrics.h"
#include "router/router_metrics.h"

namespace outrider::router {
namespace {

// The families of vLLM v0.26 as inference-perf's golden list has them, but for those that vLLM shows on request only
// (estimated_flops_per_gpu_total and the like), and the four of speculation.
constexpr const char* kGolden[] = {
    "cache_config_info gauge",
    "e2e_request_latency_seconds histogram",
    "engine_sleep_state gauge",
    "generation_tokens_total counter",
    "inter_token_latency_seconds histogram",
    "iteration_tokens_total histogram",
    "kv_cache_usage_perc gauge",
    "num_preemptions_total counter",
    "num_requests_running gauge",
    "num_requests_waiting gauge",
    "num_requests_waiting_by_reason gauge",
    "prefix_cache_hits_total counter",
    "prefix_cache_queries_total counter",
    "prompt_tokens_by_source_total counter",
    "prompt_tokens_cached_total counter",
    "prompt_tokens_total counter",
    "request_decode_time_seconds histogram",
    "request_generation_tokens histogram",
    "request_inference_time_seconds histogram",
    "request_max_num_generation_tokens histogram",
    "request_params_max_tokens histogram",
    "request_params_n histogram",
    "request_prefill_time_seconds histogram",
    "request_prompt_tokens histogram",
    "request_queue_time_seconds histogram",
    "request_success_total counter",
    "request_time_per_output_token_seconds histogram",
    "spec_decode_num_accepted_tokens_per_pos_total counter",
    "spec_decode_num_accepted_tokens_total counter",
    "spec_decode_num_draft_tokens_total counter",
    "spec_decode_num_drafts_total counter",
    "time_to_first_token_seconds histogram",
};

class VllmAliasesTest : public testing::Test {
 protected:
  VllmAliasesTest() { registry_.AppendToText(VllmAliases); }

  // A group reported `usage` of itself.
  void Report(const std::string& id, const GroupUsage& usage, uint64_t incarnation = 1) {
    metrics_.GroupReported({.id = id, .incarnation = incarnation, .model = "a \"b\"", .max_model_len = 150}, usage);
  }
  // The value of the one series that begins so, after the labels that all have; -1 if it is not there.
  double Value(const std::string& name, const std::string& more_labels = "") {
    const std::string start = absl::StrCat("\nvllm:", name, "{engine=\"0\",model_name=\"a \\\"b\\\"\"",
                                           more_labels.empty() ? "" : ",", more_labels, "} ");
    const std::string page = registry_.ToText();
    const size_t at = page.find(start);
    return at == std::string::npos ? -1 : std::stod(page.substr(at + start.size()));
  }

  MetricsRegistry registry_;
  RouterMetrics metrics_{registry_};
};

TEST_F(VllmAliasesTest, AreVllmsFamiliesOfVllmsTypes) {
  EXPECT_FALSE(absl::StrContains(registry_.ToText(), "vllm:")) << "without a group there is no model to name";
  Report("g", {});
  std::set<std::string> shown;
  std::istringstream page(registry_.ToText());
  for (std::string line; std::getline(page, line);) {
    if (line.rfind("# TYPE vllm:", 0) == 0) shown.insert(line.substr(12));
  }
  EXPECT_EQ(shown, std::set<std::string>(std::begin(kGolden), std::end(kGolden)));
}

TEST_F(VllmAliasesTest, SumGroupsUpAndWeighTheirMemory) {
  Report("h", {.sequences_running = 2,
               .sequences_waiting = 1,
               .kv_cache_used_ratio = 0.5f,
               .block_size = 16,
               .num_kv_blocks = 100});
  Report("g", {.sequences_running = 3, .kv_cache_used_ratio = 0.25f, .block_size = 16, .num_kv_blocks = 300});
  metrics_.SetQueue(4, 400);
  EXPECT_EQ(Value("num_requests_running"), 5);
  EXPECT_EQ(Value("num_requests_waiting"), 5);
  EXPECT_EQ(Value("num_requests_waiting_by_reason", "reason=\"capacity\""), 5);
  EXPECT_DOUBLE_EQ(Value("kv_cache_usage_perc"), 125.0 / 400);
  EXPECT_EQ(Value("cache_config_info", "block_size=\"16\",num_gpu_blocks=\"400\""), 1);
  metrics_.GroupLost("h");
  EXPECT_EQ(Value("num_requests_running"), 3);
}

TEST_F(VllmAliasesTest, CountDraftsByPositionOverRestartsOfAGroup) {
  GroupUsage usage;
  usage.totals.num_preemptions = 2;
  usage.totals.num_rounds = 10;
  usage.totals.draft_tokens = {10, 6};
  usage.totals.accepted_tokens = {8, 3};
  usage.totals.num_step_tokens = 40;
  usage.totals.steps_by_tokens = {4, 6};
  Report("g", usage);
  Report("g", usage);  // said again, counted once
  Report("g", usage, /*incarnation=*/2);
  EXPECT_NE(registry_.ToText().find("\noutrider_group_restarts_total{group=\"g\"} 1\n"), std::string::npos);
  EXPECT_EQ(Value("spec_decode_num_drafts_total"), 20);
  EXPECT_EQ(Value("spec_decode_num_draft_tokens_total"), 32);
  EXPECT_EQ(Value("spec_decode_num_accepted_tokens_total"), 22);
  EXPECT_EQ(Value("spec_decode_num_accepted_tokens_per_pos_total", "position=\"0\""), 16);
  EXPECT_EQ(Value("spec_decode_num_accepted_tokens_per_pos_total", "position=\"1\""), 6);
  EXPECT_EQ(Value("spec_decode_num_accepted_tokens_per_pos_total", "position=\"2\""), -1);
  EXPECT_EQ(Value("num_preemptions_total"), 4);
  EXPECT_EQ(Value("iteration_tokens_total_bucket", "le=\"1.0\""), 8);
  EXPECT_EQ(Value("iteration_tokens_total_bucket", "le=\"8.0\""), 20);
  EXPECT_EQ(Value("iteration_tokens_total_sum"), 80);
}

TEST_F(VllmAliasesTest, ReadVllmsBucketsOffTheNativeOnes) {
  Report("g", {});
  for (const double seconds : {0.00015, 0.001, 0.003, 0.07, 1.0, 3000.0}) {
    metrics_.FirstToken(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)));
  }
  const auto bucket = [&](const char* le) {
    return Value("time_to_first_token_seconds_bucket", absl::StrCat("le=\"", le, "\""));
  };
  EXPECT_EQ(bucket("0.001"), 2);
  EXPECT_EQ(bucket("0.005"), 3);
  EXPECT_EQ(bucket("0.06"), 3);
  EXPECT_EQ(bucket("0.08"), 4);
  EXPECT_EQ(bucket("1.0"), 5);
  EXPECT_EQ(bucket("2560.0"), 5);
  EXPECT_EQ(bucket("+Inf"), 6);
  EXPECT_EQ(Value("time_to_first_token_seconds_count"), 6);
  EXPECT_EQ(bucket("0.0005"), -1) << "a bound of ours alone";
}

TEST_F(VllmAliasesTest, TellOfChoicesThatEnded) {
  Report("g", {});
  metrics_.ChoiceEnded({.reason = EndReason::kStopString,
                        .usage = {.prompt_tokens = 100, .output_tokens = 11, .cached_tokens = 64},
                        .timing = {.queue = 10, .first_token = 510, .decode = 1000, .total = 1510}},
                       /*max_tokens=*/30, /*num_choices=*/2);
  metrics_.ChoiceEnded({.reason = EndReason::kLength, .usage = {.prompt_tokens = 100, .output_tokens = 30}}, 30, 2);
  EXPECT_EQ(Value("request_success_total", "finished_reason=\"stop\""), 1);
  EXPECT_EQ(Value("request_success_total", "finished_reason=\"length\""), 1);
  EXPECT_EQ(Value("request_success_total", "finished_reason=\"abort\""), 0);
  EXPECT_EQ(Value("prefix_cache_queries_total"), 200);
  EXPECT_EQ(Value("prefix_cache_hits_total"), 64);
  EXPECT_EQ(Value("prompt_tokens_by_source_total", "source=\"local_compute\""), 136);
  EXPECT_DOUBLE_EQ(Value("request_prefill_time_seconds_sum"), 0.5);
  EXPECT_DOUBLE_EQ(Value("request_decode_time_seconds_sum"), 1);
  EXPECT_DOUBLE_EQ(Value("request_inference_time_seconds_sum"), 1.5);
  EXPECT_EQ(Value("request_time_per_output_token_seconds_bucket", "le=\"0.1\""), 2);
  EXPECT_EQ(Value("request_generation_tokens_bucket", "le=\"20.0\""), 1);
  EXPECT_EQ(Value("request_generation_tokens_bucket", "le=\"100.0\""), 2);
  EXPECT_EQ(Value("request_generation_tokens_bucket", "le=\"200.0\""), -1) << "beyond the model's length";
  EXPECT_EQ(Value("request_params_n_bucket", "le=\"1.0\""), 0);
  EXPECT_EQ(Value("request_params_n_bucket", "le=\"2.0\""), 2);
}

}  // namespace
}  // namespace outrider::router
