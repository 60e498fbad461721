#include "cli/bench_statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace outrider {
namespace {

uint64_t Seed() {
  const char* const given = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::fprintf(stderr, "OUTRIDER_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

std::vector<BenchRecord> RandomRecords(std::mt19937_64& random, int count) {
  std::vector<BenchRecord> records;
  std::uniform_real_distribution<double> time(0, 5);
  std::uniform_int_distribution<int> tokens(1, 9);
  for (int i = 0; i < count; ++i) {
    BenchRecord record;
    record.success = tokens(random) > 1;
    record.start_s = time(random);
    record.queue_s = time(random);
    record.prompt_tokens = tokens(random);
    record.ttft_s = time(random);
    record.latency_s = record.ttft_s;
    const int messages = tokens(random);
    for (int m = 0; m < messages; ++m) {
      if (m > 0) {
        record.itl_s.push_back(time(random));
        record.latency_s += record.itl_s.back();
      }
      record.message_tokens.push_back(tokens(random));
      record.output_tokens += record.message_tokens.back();
    }
    records.push_back(std::move(record));
  }
  return records;
}

// The definition in numpy's manual: the value at (n - 1) * q of the ordered sample, between neighbours by their
// distance.
double SlowPercentile(std::vector<double> values, double percent) {
  std::sort(values.begin(), values.end());
  const double rank = percent / 100 * (static_cast<double>(values.size()) - 1);
  for (size_t i = 0; i + 1 < values.size(); ++i) {
    const double low = static_cast<double>(i);
    if (rank >= low && rank <= low + 1) return values[i] * (low + 1 - rank) + values[i + 1] * (rank - low);
  }
  return values.back();
}

TEST(BenchStatistics, PercentilesAreNumpys) {
  // By the rule of numpy.percentile, reckoned by hand: 0.5 + (0.9 - 0.5) * 0.97, 0.1 + 0.2 * 0.75, 9 + 0.55.
  const std::vector<double> values = {0.5, 0.1, 0.9, 0.3};
  EXPECT_NEAR(Percentile(values, 99), 0.888, 1e-12);
  EXPECT_NEAR(Percentile(values, 25), 0.25, 1e-12);
  EXPECT_EQ(Percentile(values, 0), 0.1);
  EXPECT_EQ(Percentile(values, 100), 0.9);
  EXPECT_NEAR(Percentile({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 95), 9.55, 1e-12);
  EXPECT_EQ(Percentile({}, 50), 0);
  std::mt19937_64 random(Seed());
  for (int round = 0; round < 200; ++round) {
    std::vector<double> sample;
    const int size = 1 + static_cast<int>(random() % 40);
    for (int i = 0; i < size; ++i) sample.push_back(std::uniform_real_distribution<double>(0, 1)(random));
    const double percent = std::uniform_real_distribution<double>(0, 100)(random);
    EXPECT_NEAR(Percentile(sample, percent), SlowPercentile(sample, percent), 1e-12);
  }
}

TEST(BenchStatistics, DistributionIsInMillisecondsAndOfNothingZero) {
  const BenchDistribution distribution = Distribution({0.5, 0.1, 0.9, 0.3}, {99, 99.9});
  EXPECT_NEAR(distribution.mean, 450, 1e-9);
  EXPECT_NEAR(distribution.median, 400, 1e-9);
  EXPECT_NEAR(distribution.std, 295.80398915498085, 1e-9);  // np.std: over n, not n - 1
  ASSERT_EQ(distribution.percentiles.size(), 2u);
  EXPECT_NEAR(distribution.percentiles[0].second, 888, 1e-9);
  EXPECT_EQ(Distribution({}, {99}).percentiles[0].second, 0);
  EXPECT_EQ(Distribution({}, {}).mean, 0);
}

TEST(BenchStatistics, SumsAndRatesOfKnownRecords) {
  BenchRecord a{
      .success = true, .prompt_tokens = 10, .output_tokens = 5, .start_s = 1, .ttft_s = 0.1, .latency_s = 0.5};
  a.itl_s = {0.3, 0.1};
  a.message_tokens = {1, 3, 1};
  BenchRecord one{
      .success = true, .prompt_tokens = 7, .output_tokens = 1, .start_s = 1.2, .ttft_s = 0.4, .latency_s = 0.4};
  one.message_tokens = {1};
  const BenchRecord failed{.error = "UNAVAILABLE: gone", .prompt_tokens = 99, .latency_s = 9};
  const BenchMetrics metrics = Summarize({a, failed, one}, 2, {99}, {{"ttft", 200}, {"tpot", 100}});
  EXPECT_EQ(metrics.completed, 2);
  EXPECT_EQ(metrics.failed, 1);
  EXPECT_EQ(metrics.total_input, 17);
  EXPECT_EQ(metrics.total_output, 6);
  EXPECT_EQ(metrics.request_throughput, 1);
  EXPECT_EQ(metrics.request_goodput, 0.5);  // the second is late
  EXPECT_EQ(metrics.output_throughput, 3);
  EXPECT_EQ(metrics.total_token_throughput, 11.5);
  EXPECT_EQ(metrics.max_concurrent_requests, 2);
  EXPECT_EQ(metrics.max_output_tokens_per_s, 6);                  // all within the first second
  EXPECT_NEAR(metrics.distributions.at("tpot").mean, 100, 1e-9);  // (0.5 - 0.1) / 4; a single token has none
  EXPECT_NEAR(metrics.distributions.at("itl").mean, 200, 1e-9);
  EXPECT_NEAR(metrics.distributions.at("ttft").mean, 250, 1e-9);
  EXPECT_NEAR(metrics.distributions.at("e2el").mean, 450, 1e-9);
}

TEST(BenchStatistics, NothingOrFailuresAloneAreZeros) {
  for (const std::vector<BenchRecord>& records : {std::vector<BenchRecord>{}, {BenchRecord{}}}) {
    const BenchMetrics metrics = Summarize(records, 1, {50, 99}, {{"ttft", 1}});
    EXPECT_EQ(metrics.completed, 0);
    EXPECT_EQ(metrics.request_goodput, 0);
    EXPECT_EQ(metrics.max_concurrent_requests, 0);
    EXPECT_EQ(metrics.distributions.at("ttft").mean, 0);
  }
}

TEST(BenchStatistics, PeaksAreThoseOfASlowCount) {
  std::mt19937_64 random(Seed());
  for (int round = 0; round < 100; ++round) {
    const std::vector<BenchRecord> records = RandomRecords(random, 12);
    const BenchMetrics metrics = Summarize(records, 10, {99}, {});
    // A peak is reached at some start: count who is there then.
    int peak = 0;
    double first = 1e9;
    for (const BenchRecord& at : records) {
      if (!at.success) continue;
      first = std::min(first, at.start_s);
      int there = 0;
      for (const BenchRecord& other : records) {
        there += other.success && other.start_s <= at.start_s && at.start_s < other.start_s + other.latency_s;
      }
      peak = std::max(peak, there);
    }
    EXPECT_EQ(metrics.max_concurrent_requests, peak);
    double most = 0;
    for (int second = 0; second < 100; ++second) {
      double tokens = 0;
      for (const BenchRecord& record : records) {
        if (!record.success) continue;
        double at = record.start_s + record.ttft_s - first;
        for (size_t m = 0; m < record.message_tokens.size(); ++m) {
          if (m > 0) at += record.itl_s[m - 1];
          if (at >= second && at < second + 1) tokens += record.message_tokens[m];
        }
      }
      most = std::max(most, tokens);
    }
    EXPECT_EQ(metrics.max_output_tokens_per_s, most);
  }
}

TEST(BenchStatistics, GoodputIsReadAndWhatIsNoneIsNamed) {
  EXPECT_EQ(*ParseGoodput({"ttft:200", "tpot:50.5"}), (std::map<std::string, double>{{"ttft", 200}, {"tpot", 50.5}}));
  for (const char* const bad : {"ttft", "ttft:", "ttft:fast", "ttft:-1", "ttft:1:2"}) {
    EXPECT_NE(ParseGoodput({bad}).status().message().find("write NAME:MILLISECONDS"), absl::string_view::npos) << bad;
  }
  EXPECT_NE(ParseGoodput({"itl:5"}).status().message().find("'itl' is none of"), absl::string_view::npos);
}

TEST(BenchStatistics, DraftCountersAreReadFromOurPageOrVllms) {
  const std::string ours =
      "# TYPE outrider_draft_rounds_total counter\n"
      "outrider_draft_rounds_total{group=\"a\"} 6\n"
      "outrider_draft_rounds_total{group=\"b\"} 4\n"
      "outrider_draft_tokens_accepted_total{group=\"a\",position=\"1\"} 5\n"
      "outrider_draft_tokens_accepted_total{position=\"2\",group=\"b\"} 2\n"
      "outrider_draft_tokens_accepted_total{position=\"99999999999\"} 2\n"
      "outrider_draft_tokens_accepted_total{position=\"x\"} 2\nnonsense\n";
  DraftCounters counters = ReadDraftCounters(ours);
  EXPECT_EQ(counters.num_drafts, 10);
  EXPECT_EQ(counters.accepted_by_position, (std::map<int, int64_t>{{0, 5}, {1, 2}}));
  const std::string vllm =
      "vllm:spec_decode_num_drafts_total{model_name=\"m\"} 3.0\n"
      "vllm:spec_decode_num_accepted_tokens_per_pos_total{position=\"0\"} 2.0\n";
  EXPECT_EQ(ReadDraftCounters(ours + vllm).num_drafts, 10);
  counters = ReadDraftCounters(vllm);
  EXPECT_EQ(counters.num_drafts, 3);
  EXPECT_EQ(counters.accepted_by_position, (std::map<int, int64_t>{{0, 2}}));
  EXPECT_EQ(ReadDraftCounters("").num_drafts, 0);
}

TEST(BenchStatistics, SpeculationIsOfTheRunAlone) {
  BenchRecord record{.success = true, .num_drafts = 4, .draft_tokens = 10, .accepted_tokens = 6};
  const SpeculationFigures figures =
      Speculation({record, record}, {.num_drafts = 100, .accepted_by_position = {{0, 50}, {1, 9}}},
                  {.num_drafts = 108, .accepted_by_position = {{0, 56}, {1, 11}, {2, 0}}});
  EXPECT_EQ(figures.num_drafts, 8);
  EXPECT_EQ(figures.acceptance_rate(), 60);
  EXPECT_EQ(figures.acceptance_length(), 2.5);
  EXPECT_EQ(figures.per_position, (std::vector<double>{0.75, 0.25}));
  EXPECT_TRUE(Speculation({record}, {}, {}).per_position.empty());
  const DraftCounters after = {.num_drafts = 4, .draft_tokens = 8, .accepted_tokens = 2, .accepted_by_position = {}};
  EXPECT_EQ(Speculation({BenchRecord()}, {}, after).draft_tokens, 0);
  EXPECT_EQ(Speculation({BenchRecord()}, {}, after, true).draft_tokens, 8);
  EXPECT_EQ(Speculation({record}, {}, after, true).draft_tokens, 10);
}

}  // namespace
}  // namespace outrider
