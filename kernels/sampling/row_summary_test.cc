#include "kernels/sampling/row_summary.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

using testing::Random;
using testing::RandomTensor;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool AreEqual(const SampledToken& a, const SampledToken& b) {
  const auto bits = [](float value) { return std::bit_cast<uint32_t>(value); };
  if (a.status != b.status || a.token_id != b.token_id || bits(a.logprob) != bits(b.logprob)) return false;
  if (a.num_top != b.num_top || a.rank != b.rank) return false;
  for (size_t i = 0; i < static_cast<size_t>(a.num_top); ++i) {
    if (a.top[i].token_id != b.top[i].token_id || bits(a.top[i].logprob) != bits(b.top[i].logprob)) return false;
  }
  return true;
}

SamplingRow RandomParameters(Random& random, int vocab_size) {
  const auto chance = [&](double p) { return random.Uniform() < p; };
  SamplingRow row;
  row.temperature = chance(0.15) ? 0.0f : static_cast<float>(0.1 + 1.5 * random.Uniform());
  if (chance(0.4)) row.top_k = static_cast<int>(random.Integer(1, chance(0.2) ? vocab_size + 1 : 60));
  if (chance(0.5)) row.top_p = chance(0.1) ? 0.0f : static_cast<float>(0.05 + 0.9499 * random.Uniform());
  if (chance(0.3)) row.min_p = chance(0.1) ? 1e-38f : static_cast<float>(0.3 * random.Uniform());
  row.seed = random.Next();
  row.lane = static_cast<uint32_t>(random.Integer(0, 4));
  row.position = static_cast<uint32_t>(random.Integer(0, 100000));
  row.num_logprobs = static_cast<int>(random.Integer(-1, 21));
  return row;
}

// Rows of every kind: flat, peaked, with ties, with tokens that cannot be.
std::vector<float> RandomLogits(Random& random, int vocab_size) {
  std::vector<float> logits = RandomTensor(
      vocab_size, random.Next(), {.scale = 0.02 + 8 * random.Uniform(), .num_outliers = 3, .outlier_factor = 4});
  switch (random.Integer(0, 5)) {
    case 0:  // many ties
      for (float& logit : logits) logit = static_cast<float>(static_cast<int>(logit));
      break;
    case 1:  // most are impossible
      for (float& logit : logits) logit = random.Uniform() < 0.9 ? -kInfinity : logit;
      logits[static_cast<size_t>(random.Integer(0, vocab_size))] = 1.0f;
      break;
    default:
      break;
  }
  return logits;
}

struct Outcome {
  bool decided = false;
  SampledToken token;
};

Outcome FromSummary(const SamplingRow& row, const RowSummary& summary, int vocab_size) {
  SamplingScratch scratch;
  Outcome outcome;
  outcome.decided = SampleFromSummary(row, {.summary = &summary}, vocab_size, scratch, &outcome.token);
  return outcome;
}

std::unique_ptr<RowSummary> Summarize(const SamplingRow& row, const std::vector<float>& logits) {
  const int vocab_size = static_cast<int>(logits.size());
  auto summary = std::make_unique<RowSummary>();
  SummarizeRow(RequestOf(row, vocab_size), logits.data(), vocab_size, summary.get());
  return summary;
}

SampledToken Sample(const SamplingRow& row, const std::vector<float>& logits) {
  SamplingScratch scratch;
  return SampleRow(row, logits.data(), static_cast<int>(logits.size()), scratch);
}

TEST(RowSummary, DecidesWhatTheWholeRowDecides) {
  Random random(testing::TestSeed(401));
  int num_decided = 0;
  constexpr int kRounds = 6000;
  for (int round = 0; round < kRounds; ++round) {
    const int vocab_size = static_cast<int>(random.Integer(1, round % 8 == 0 ? 40000 : 2000));
    const std::vector<float> logits = RandomLogits(random, vocab_size);
    const SamplingRow row = RandomParameters(random, vocab_size);
    ASSERT_TRUE(IsSummarizable(row));
    const Outcome outcome = FromSummary(row, *Summarize(row, logits), vocab_size);
    num_decided += outcome.decided;
    if (!outcome.decided) continue;
    const SampledToken expected = Sample(row, logits);
    ASSERT_TRUE(AreEqual(outcome.token, expected))
        << "round " << round << ": token " << outcome.token.token_id << ", expected " << expected.token_id
        << ", temperature " << row.temperature << ", top_k " << row.top_k << ", top_p " << row.top_p << ", min_p "
        << row.min_p << ", " << row.num_logprobs << " logprobs";
  }
  // Random rows are flatter than those of language models.
  EXPECT_GT(num_decided, kRounds / 2);
}

TEST(RowSummary, DecidesAnyRowThatTemperatureAloneShapes) {
  Random random(testing::TestSeed(402));
  for (int round = 0; round < 300; ++round) {
    const std::vector<float> logits = RandomLogits(random, 5000);
    const SamplingRow row{.temperature = static_cast<float>(0.1 + 2 * random.Uniform()), .seed = random.Next()};
    const Outcome outcome = FromSummary(row, *Summarize(row, logits), 5000);
    ASSERT_TRUE(outcome.decided);
    ASSERT_TRUE(AreEqual(outcome.token, Sample(row, logits))) << "round " << round;
  }
}

TEST(RowSummary, DecidesRowsWithFewerTokensInReachThanTopKKeeps) {
  // One token leads by 60: the rest of the 40 kept cannot win, so they need not be known.
  std::vector<float> logits(3000, -60.0f);
  logits[1234] = 0.0f;
  for (const float top_p : {1.0f, 0.999999f}) {
    const SamplingRow row{.top_k = 40, .top_p = top_p, .seed = 5};
    const Outcome outcome = FromSummary(row, *Summarize(row, logits), 3000);
    ASSERT_TRUE(outcome.decided);
    EXPECT_EQ(outcome.token.token_id, 1234);
  }
}

TEST(RowSummary, RatesGivenTokens) {
  Random random(testing::TestSeed(404));
  int num_decided = 0;
  for (int round = 0; round < 1000; ++round) {
    const int vocab_size = static_cast<int>(random.Integer(1, 3000));
    std::vector<float> logits = RandomLogits(random, vocab_size);
    if (round % 20 == 19) logits[logits.size() / 2] = std::numeric_limits<float>::quiet_NaN();
    const SamplingRow row{.num_logprobs = static_cast<int>(random.Integer(-1, 21)),
                          .given_token = static_cast<int32_t>(random.Integer(0, vocab_size))};
    ASSERT_TRUE(IsSummarizable(row));
    const Outcome outcome = FromSummary(row, *Summarize(row, logits), vocab_size);
    num_decided += outcome.decided;
    if (!outcome.decided) continue;
    ASSERT_TRUE(AreEqual(outcome.token, Sample(row, logits))) << "round " << round;
  }
  EXPECT_GT(num_decided, 500);
}

TEST(RowSummary, LeavesFlatRowsToTheWholeRow) {
  const std::vector<float> logits(kSummaryCandidatesMax + 1, 2.0f);
  const int vocab_size = static_cast<int>(logits.size());
  for (const SamplingRow& row : {SamplingRow{.top_k = 5}, SamplingRow{.top_p = 0.5f}, SamplingRow{.min_p = 0.1f},
                                 SamplingRow{.num_logprobs = 1}}) {
    EXPECT_FALSE(FromSummary(row, *Summarize(row, logits), vocab_size).decided);
  }
  const std::vector<float> one_less(kSummaryCandidatesMax, 2.0f);
  for (const SamplingRow& row : {SamplingRow{.top_k = 5}, SamplingRow{.top_p = 0.5f}, SamplingRow{.min_p = 0.1f}}) {
    const Outcome outcome = FromSummary(row, *Summarize(row, one_less), kSummaryCandidatesMax);
    ASSERT_TRUE(outcome.decided);
    EXPECT_TRUE(AreEqual(outcome.token, Sample(row, one_less)));
  }
}

TEST(RowSummary, SaysWhatIsNotFinite) {
  const std::vector<float> plain = RandomTensor(100, 7);
  std::vector<std::vector<float>> rows(5, plain);
  rows[0][31] = std::numeric_limits<float>::quiet_NaN();
  rows[1][99] = kInfinity;
  rows[2].assign(100, -kInfinity);
  rows[3].assign(100, -kInfinity);
  rows[3][17] = -2.0f;  // all but one
  rows[4][50] = 3e38f;  // overflows at temperature 0.5
  for (const std::vector<float>& logits : rows) {
    for (const SamplingRow& row : {SamplingRow{.temperature = 0}, SamplingRow{.temperature = 0.5f, .top_p = 0.9f},
                                   SamplingRow{.temperature = 0.5f}}) {
      const Outcome outcome = FromSummary(row, *Summarize(row, logits), 100);
      if (&logits == &rows[4] && row.temperature == 0) {
        EXPECT_FALSE(outcome.decided);  // beyond kSummaryMagnitudeMax
        continue;
      }
      ASSERT_TRUE(outcome.decided);
      EXPECT_TRUE(AreEqual(outcome.token, Sample(row, logits))) << "temperature " << row.temperature;
    }
  }
}

TEST(RowSummary, IsNotOfRowsThatPenaltiesBiasOrMasksChange) {
  TokenCounts counts;
  const std::pair<int32_t, float> bias[] = {{3, 1.0f}};
  const int32_t masked[] = {3};
  const uint32_t allowed[] = {~0u};
  EXPECT_FALSE(IsSummarizable(SamplingRow{.presence_penalty = 1, .counts = &counts}));
  EXPECT_FALSE(IsSummarizable(SamplingRow{.bias = bias}));
  EXPECT_FALSE(IsSummarizable(SamplingRow{.masked_ids = masked}));
  EXPECT_FALSE(IsSummarizable(SamplingRow{.allowed_tokens = allowed}));
  EXPECT_TRUE(IsSummarizable(SamplingRow{.counts = &counts}));
}

TEST(RowSummary, BucketsFallWithDeltaAndEndWhereNoTokenCanWin) {
  EXPECT_EQ(SummaryBucket(0.0f), 0);
  EXPECT_EQ(SummaryBucket(-0.0f), 0);
  EXPECT_EQ(SummaryBucket(-0.125f), 1);
  EXPECT_EQ(SummaryBucket(-8.0f), kSummaryFineBuckets);
  EXPECT_EQ(SummaryBucket(std::nextafter(kSummaryDeltaEnd, 0.0f)), kSummaryBuckets - 1);
  EXPECT_EQ(SummaryBucket(kSummaryDeltaEnd), kSummaryBuckets);
  EXPECT_EQ(SummaryBucket(-kInfinity), kSummaryBuckets);
  for (float delta = -41.0f; delta < 0; delta += 0.01f) EXPECT_GE(SummaryBucket(delta), SummaryBucket(delta + 0.01f));
}

// The comparison above sees a summary that is wrong in any one field.
TEST(RowSummary, PlantedFaultsChangeWhatIsDecided) {
  Random random(testing::TestSeed(403));
  const auto num_wrong = [&](SamplingRow row, auto&& spoil) {
    int wrong = 0;
    for (int round = 0; round < 200; ++round) {
      row.seed = random.Next();
      const std::vector<float> logits = RandomTensor(400, random.Next(), {.scale = 2});
      const std::unique_ptr<RowSummary> summary = Summarize(row, logits);
      spoil(*summary);
      const Outcome outcome = FromSummary(row, *summary, 400);
      wrong += outcome.decided && !AreEqual(outcome.token, Sample(row, logits));
    }
    return wrong;
  };
  const auto nothing = [](RowSummary&) {};
  const auto drop_best = [](RowSummary& s) {
    SummaryCandidate* const end = s.candidates + s.num_candidates;
    std::iter_swap(std::max_element(s.candidates, end, [](auto& a, auto& b) { return a.logit < b.logit; }), end - 1);
    --s.num_candidates;
  };
  EXPECT_EQ(num_wrong({.top_p = 0.8f, .num_logprobs = 3}, nothing), 0);
  EXPECT_GT(num_wrong({.top_k = 10}, drop_best), 0);
  EXPECT_GT(num_wrong({.top_p = 0.8f}, drop_best), 0);
  EXPECT_GT(num_wrong({.min_p = 0.1f}, drop_best), 0);
  EXPECT_GT(num_wrong({.num_logprobs = 3}, drop_best), 0);
  EXPECT_GT(num_wrong({.top_p = 0.8f}, [](RowSummary& s) { s.weight_sum /= 2; }), 0);
  EXPECT_GT(num_wrong({.num_logprobs = 0}, [](RowSummary& s) { s.raw_weight_sum -= s.raw_weight_sum / 1000; }), 0);
  EXPECT_GT(num_wrong({}, [](RowSummary& s) { s.best_id ^= 1; }), 0);
  EXPECT_GT(num_wrong({}, [](RowSummary& s) { s.has_nan = 1; }), 0);
  EXPECT_EQ(num_wrong({.num_logprobs = 0, .given_token = 7}, nothing), 0);
  EXPECT_GT(num_wrong({.num_logprobs = 0, .given_token = 7}, [](RowSummary& s) { ++s.given_rank; }), 0);
  EXPECT_GT(num_wrong({.num_logprobs = 0, .given_token = 7}, [](RowSummary& s) { s.given_logit += 0.01f; }), 0);
}

}  // namespace
}  // namespace outrider::kernels
