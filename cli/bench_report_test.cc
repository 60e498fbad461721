#include "cli/bench_report.h"

#include <gtest/gtest.h>

#include <limits>

namespace outrider {
namespace {

BenchRecord Record() {
  BenchRecord record{
      .success = true, .prompt_tokens = 10, .output_tokens = 5, .start_s = 0, .ttft_s = 0.1, .latency_s = 0.5};
  record.itl_s = {0.3, 0.1};
  record.message_tokens = {1, 3, 1};
  record.text = "a";
  record.num_drafts = 2;
  record.draft_tokens = 4;
  record.accepted_tokens = 3;
  return record;
}

const BenchRun kRun{.date = "20260101-000000",
                    .model_id = "dir/model",
                    .num_prompts = 1,
                    .metadata = {{"gpu", "none"}},
                    .request_rate = 4,
                    .max_concurrency = 8,
                    .duration_s = 2,
                    .has_goodput = true};

// The lines as Python's "{:<40} {:<10.2f}" and "{s:{c}^{n}}" write them, trailing spaces included.
constexpr char kReport[] =
    "============ Serving Benchmark Result ============\n"
    "Successful requests:                     1         \n"
    "Failed requests:                         0         \n"
    "Maximum request concurrency:             8         \n"
    "Request rate configured (RPS):           4.00      \n"
    "Benchmark duration (s):                  2.00      \n"
    "Total input tokens:                      10        \n"
    "Total generated tokens:                  5         \n"
    "Request throughput (req/s):              0.50      \n"
    "Request goodput (req/s):                 0.50      \n"
    "Output token throughput (tok/s):         2.50      \n"
    "Peak output token throughput (tok/s):    5.00      \n"
    "Peak concurrent requests:                1.00      \n"
    "Total token throughput (tok/s):          7.50      \n"
    "---------------Time to First Token----------------\n"
    "Mean TTFT (ms):                          100.00    \n"
    "Median TTFT (ms):                        100.00    \n"
    "P99 TTFT (ms):                           100.00    \n"
    "-----Time per Output Token (excl. 1st token)------\n"
    "Mean TPOT (ms):                          100.00    \n"
    "Median TPOT (ms):                        100.00    \n"
    "P99 TPOT (ms):                           100.00    \n"
    "---------------Inter-token Latency----------------\n"
    "Mean ITL (ms):                           200.00    \n"
    "Median ITL (ms):                         200.00    \n"
    "P99 ITL (ms):                            298.00    \n"
    "---------------Speculative Decoding---------------\n"
    "Acceptance rate (%):                     75.00     \n"
    "Acceptance length:                       2.50      \n"
    "Drafts:                                  2         \n"
    "Draft tokens:                            4         \n"
    "Accepted tokens:                         3         \n"
    "Per-position acceptance (%):\n"
    "  Position 0:                            100.00    \n"
    "  Position 1:                            50.00     \n"
    "==================================================\n";

BenchMetrics Metrics() { return Summarize({Record()}, 2, {99}, {{"ttft", 200}}); }
SpeculationFigures Figures() {
  return Speculation({Record()}, {}, {.num_drafts = 2, .accepted_by_position = {{0, 2}, {1, 1}}});
}

TEST(BenchReport, BlockIsVllmsToTheLetter) { EXPECT_EQ(BenchReportText(kRun, Metrics(), Figures()), kReport); }

TEST(BenchReport, LeavesOutWhatWasNotAskedOrNotThere) {
  BenchRun run = kRun;
  run.request_rate = std::numeric_limits<double>::infinity();
  run.max_concurrency.reset();
  run.has_goodput = false;
  run.percentile_metrics = {"e2el", "client_queue_time"};
  const std::string text = BenchReportText(run, Metrics(), {});
  for (const char* const absent : {"goodput", "Maximum request", "configured", "TTFT", "Speculative", "Queue"}) {
    EXPECT_EQ(text.find(absent), std::string::npos) << absent;
  }
  EXPECT_NE(text.find("----------------End-to-end Latency----------------"), std::string::npos) << text;
}

TEST(BenchReport, JsonHasVllmsKeysInItsOrder) {
  const auto json = BenchReportJson(kRun, Metrics(), Figures(), {Record()}, /*detailed=*/false);
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"date",
                                            "endpoint_type",
                                            "backend",
                                            "label",
                                            "model_id",
                                            "tokenizer_id",
                                            "num_prompts",
                                            "gpu",
                                            "request_rate",
                                            "burstiness",
                                            "max_concurrency",
                                            "duration",
                                            "completed",
                                            "failed",
                                            "total_input_tokens",
                                            "total_output_tokens",
                                            "request_throughput",
                                            "request_goodput",
                                            "output_throughput",
                                            "total_token_throughput",
                                            "latencies",
                                            "queue_times",
                                            "max_output_tokens_per_s",
                                            "max_concurrent_requests",
                                            "rtfx",
                                            "spec_decode_acceptance_rate",
                                            "spec_decode_acceptance_length",
                                            "spec_decode_num_drafts",
                                            "spec_decode_draft_tokens",
                                            "spec_decode_accepted_tokens",
                                            "spec_decode_per_position_acceptance_rates",
                                            "mean_ttft_ms",
                                            "median_ttft_ms",
                                            "std_ttft_ms",
                                            "p99_ttft_ms",
                                            "mean_tpot_ms",
                                            "median_tpot_ms",
                                            "std_tpot_ms",
                                            "p99_tpot_ms",
                                            "mean_itl_ms",
                                            "median_itl_ms",
                                            "std_itl_ms",
                                            "p99_itl_ms"}));
  EXPECT_TRUE(json["label"].is_null());
  EXPECT_EQ(json["spec_decode_acceptance_rate"], 75);
  const auto detailed = BenchReportJson(kRun, Metrics(), Figures(), {Record()}, /*detailed=*/true);
  EXPECT_EQ(detailed["itls"][0].size(), 2u);
  EXPECT_EQ(detailed["generated_texts"][0], "a");
  EXPECT_EQ(detailed["input_lens"][0], 10);
}

TEST(BenchReport, InfiniteRateIsTheWordAndGoodputNobodyAskedForIsNull) {
  BenchRun run = kRun;
  run.request_rate = std::numeric_limits<double>::infinity();
  run.has_goodput = false;
  const auto json = BenchReportJson(run, Metrics(), {}, {}, false);
  EXPECT_EQ(json["request_rate"], "inf");
  EXPECT_TRUE(json["request_goodput"].is_null());
  EXPECT_FALSE(json.contains("spec_decode_num_drafts"));
  EXPECT_EQ(BenchFileName(run), "grpc-infqps-concurrency8-model-20260101-000000.json");
  EXPECT_EQ(BenchFileName(kRun), "grpc-4.0qps-concurrency8-model-20260101-000000.json");
}

}  // namespace
}  // namespace outrider
