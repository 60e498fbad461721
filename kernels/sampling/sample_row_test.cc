#include "kernels/sampling/sample_row.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/targets.h"

namespace outrider::kernels {
namespace {

using testing::Random;
using testing::RandomTensor;

SampledToken Sample(const SamplingRow& row, const std::vector<float>& logits) {
  SamplingScratch scratch;
  return SampleRow(row, logits.data(), static_cast<int>(logits.size()), scratch);
}

int32_t SampleId(const SamplingRow& row, const std::vector<float>& logits) {
  const SampledToken token = Sample(row, logits);
  EXPECT_EQ(token.status, RowStatus::kOk);
  return token.token_id;
}

// A row with random parameters and everything it points to.
struct RandomRow {
  RandomRow(Random& random, int vocab_size) {
    const auto chance = [&](double p) { return random.Uniform() < p; };
    const auto token = [&] { return static_cast<int32_t>(random.Integer(0, vocab_size)); };
    logits = RandomTensor(vocab_size, random.Next(),
                          {.scale = 0.5 + 6 * random.Uniform(), .num_outliers = 3, .outlier_factor = 4});
    row.temperature = chance(0.15) ? 0.0f : static_cast<float>(0.1 + 1.5 * random.Uniform());
    if (chance(0.4)) row.top_k = static_cast<int>(random.Integer(1, chance(0.2) ? vocab_size + 1 : 60));
    if (chance(0.5)) row.top_p = static_cast<float>(0.05 + 0.94 * random.Uniform());
    if (chance(0.3)) row.min_p = static_cast<float>(0.3 * random.Uniform());
    if (chance(0.4)) row.repetition_penalty = static_cast<float>(0.8 + random.Uniform());
    if (chance(0.3)) row.presence_penalty = static_cast<float>(2 * random.Uniform() - 1);
    if (chance(0.3)) row.frequency_penalty = static_cast<float>(random.Uniform());
    row.seed = random.Next();
    row.lane = static_cast<uint32_t>(random.Integer(0, 4));
    row.position = static_cast<uint32_t>(random.Integer(0, 100000));
    for (int i = 0; i < 30; ++i) {
      counts.AddPromptToken(token());
      counts.AddOutputToken(token());
    }
    for (int64_t i = random.Integer(0, 6); i > 0; --i) extra.push_back(token());
    if (extra.size() > 2) extra[1] = extra[0];
    for (int64_t i = random.Integer(0, 4); i > 0; --i)
      bias.push_back({token(), static_cast<float>(6 * random.Uniform() - 3)});
    for (int64_t i = random.Integer(0, 4); i > 0; --i) masked.push_back(token());
    allowed.assign(static_cast<size_t>(vocab_size + 31) / 32, 0);
    for (uint32_t& word : allowed) word = static_cast<uint32_t>(random.Next() | random.Next());
    allowed[0] |= 1;
    const bool masks = chance(0.5);
    row.counts = &counts;
    row.extra_tokens = extra;
    row.bias = bias;
    if (masks) row.masked_ids = masked;
    if (chance(0.2)) row.allowed_tokens = allowed.data();
    row.num_logprobs = static_cast<int>(random.Integer(-1, 21));
  }

  SamplingRow row;
  std::vector<float> logits;
  TokenCounts counts;
  std::vector<int32_t> extra, masked;
  std::vector<std::pair<int32_t, float>> bias;
  std::vector<uint32_t> allowed;
};

TEST(SampleRow, RatesAGivenTokenWhateverTheOtherParametersAreOnEveryTarget) {
  const uint64_t seed = testing::TestSeed(93);
  testing::ForEachTarget([&](const char* target) {
    Random random(seed);
    for (int round = 0; round < 200; ++round) {
      SCOPED_TRACE(std::string(target) + ", seed " + std::to_string(seed) + ", round " + std::to_string(round));
      const int vocab_size = static_cast<int>(random.Integer(1, 3000));
      RandomRow made(random, vocab_size);
      SamplingRow row = made.row;
      row.given_token = static_cast<int32_t>(random.Integer(0, vocab_size));
      row.num_logprobs = static_cast<int>(random.Integer(0, 21));
      const SampledToken token = Sample(row, made.logits);
      SamplingRow plain{.num_logprobs = row.num_logprobs, .given_token = row.given_token};
      const SampledToken expected = SampleRowReference(plain, made.logits.data(), vocab_size, nullptr);
      ASSERT_EQ(token.status, RowStatus::kOk);
      EXPECT_EQ(token.token_id, row.given_token);
      EXPECT_EQ(token.rank, expected.rank);
      EXPECT_NEAR(token.logprob, expected.logprob, 1e-5 * (1 + std::fabs(expected.logprob)));
      ASSERT_EQ(token.num_top, expected.num_top);
      for (int i = 0; i < token.num_top; ++i) {
        EXPECT_EQ(token.top[static_cast<size_t>(i)].token_id, expected.top[static_cast<size_t>(i)].token_id);
        if (token.top[static_cast<size_t>(i)].token_id == token.token_id) {
          EXPECT_EQ(token.top[static_cast<size_t>(i)].logprob, token.logprob);
        }
      }
    }
    std::vector<float> bad(10, 1.0f);
    bad[3] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(Sample({.num_logprobs = 0, .given_token = 1}, bad).status, RowStatus::kNotFinite);
  });
}

TEST(SampleRow, AgreesWithReferenceExceptAtNearTiesOnEveryTarget) {
  const uint64_t seed = testing::TestSeed(91);
  testing::ForEachTarget([&](const char* target) {
    Random random(seed);
    int num_near_ties = 0;
    constexpr int kRounds = 1500;
    for (int round = 0; round < kRounds; ++round) {
      const int vocab_size = static_cast<int>(random.Integer(1, round % 10 == 0 ? 5000 : 600));
      RandomRow random_row(random, vocab_size);
      double margin = 0;
      const SampledToken expected = SampleRowReference(random_row.row, random_row.logits.data(), vocab_size, &margin);
      const SampledToken actual = Sample(random_row.row, random_row.logits);
      ASSERT_EQ(actual.status, expected.status) << target << " round " << round;
      if (expected.status != RowStatus::kOk) continue;
      // A processed logit is at most some 500 here after 6 roundings, scaled by at most 10: 6 * 500 * 10 * 2^-24 = 2e-3
      // would be the bound for the largest; most are below 100. A distance under 1e-3 is called a near tie.
      if (margin < 1e-3) {
        ++num_near_ties;
        continue;
      }
      EXPECT_EQ(actual.token_id, expected.token_id) << target << " round " << round << " margin " << margin;
      if (random_row.row.num_logprobs < 0 || actual.token_id != expected.token_id) continue;
      EXPECT_NEAR(actual.logprob, expected.logprob, 2e-5) << "round " << round;
      ASSERT_EQ(actual.num_top, expected.num_top);
      for (int i = 0; i < actual.num_top; ++i) {
        EXPECT_EQ(actual.top[static_cast<size_t>(i)].token_id, expected.top[static_cast<size_t>(i)].token_id);
        EXPECT_NEAR(actual.top[static_cast<size_t>(i)].logprob, expected.top[static_cast<size_t>(i)].logprob, 2e-5);
      }
    }
    EXPECT_LT(num_near_ties, kRounds / 20);
  });
}

TEST(SampleRow, GivesTheSameTokenOnEveryTarget) {
  Random random(testing::TestSeed(92));
  for (int round = 0; round < 300; ++round) {
    RandomRow random_row(random, static_cast<int>(random.Integer(1, 3000)));
    int32_t first = -2;
    testing::ForEachTarget([&](const char* target) {
      const SampledToken token = Sample(random_row.row, random_row.logits);
      if (first == -2) first = token.token_id;
      EXPECT_EQ(token.token_id, first) << target << " round " << round;
    });
  }
}

TEST(SampleRow, FlatRowsAreFilteredAsTheReferenceDoes) {
  // All weights alike: every window and both selections see the whole vocabulary.
  Random random(testing::TestSeed(93));
  for (int round = 0; round < 60; ++round) {
    auto logits = RandomTensor(3000, random.Next(), {.scale = 0.01});
    SamplingRow row{.temperature = 0.9f, .seed = random.Next(), .position = 5};
    if (round % 3 != 1) row.top_p = static_cast<float>(random.Uniform());
    if (round % 3 != 0) row.top_k = static_cast<int>(random.Integer(1, 3000));
    double margin = 0;
    const SampledToken expected = SampleRowReference(row, logits.data(), 3000, &margin);
    if (margin < 1e-6) continue;
    EXPECT_EQ(SampleId(row, logits), expected.token_id) << "round " << round;
  }
}

TEST(SampleRow, GreedyTakesTheFirstOfEqualLogits) {
  std::vector<float> logits(500, 1.0f);
  logits[77] = logits[300] = logits[499] = 2.5f;
  EXPECT_EQ(SampleId({.temperature = 0}, logits), 77);
  EXPECT_EQ(ArgMax(logits.data(), 500), 77);
}

TEST(SampleRow, TopKKeepsTheLowestIdsOfEqualLogits) {
  const std::vector<float> logits(100, 1.0f);
  for (uint32_t position = 0; position < 200; ++position) {
    EXPECT_LT(SampleId({.top_k = 3, .seed = 1, .position = position}, logits), 3);
  }
}

TEST(SampleRow, TopPKeepsTheTokenThatReachesIt) {
  // Probabilities 1/2, 1/4, 1/4: 0.5 is reached by the first alone; 0.51 needs the second, the lower id of its kind.
  const std::vector<float> logits = {std::log(0.25f), std::log(0.5f), std::log(0.25f)};
  bool saw_first = false;
  for (uint32_t position = 0; position < 100; ++position) {
    EXPECT_EQ(SampleId({.top_p = 0.4999f, .seed = 2, .position = position}, logits), 1);
    const int32_t id = SampleId({.top_p = 0.51f, .seed = 2, .position = position}, logits);
    EXPECT_NE(id, 2);
    saw_first = saw_first || id == 0;
  }
  EXPECT_TRUE(saw_first);
}

TEST(SampleRow, PenaltiesFollowTheStatedOrder) {
  TokenCounts counts;
  counts.AddPromptToken(1);
  counts.AddOutputToken(2);
  counts.AddOutputToken(2);
  // Repetition divides positive logits and multiplies negative ones, of prompt tokens too.
  EXPECT_EQ(SampleId({.temperature = 0, .repetition_penalty = 2, .counts = &counts}, {4.1f, 8.0f, 8.0f}), 0);
  EXPECT_EQ(SampleId({.temperature = 0, .repetition_penalty = 2, .counts = &counts}, {-7.9f, -4.0f, -4.0f}), 0);
  // Presence and frequency look at the output only; frequency counts: 8 - 1 - 2 * 1.5 = 4.
  const SamplingRow row{.temperature = 0, .presence_penalty = 1, .frequency_penalty = 1.5, .counts = &counts};
  EXPECT_EQ(SampleId(row, {3.9f, 0.0f, 8.0f}), 2);
  EXPECT_EQ(SampleId(row, {4.1f, 0.0f, 8.0f}), 0);
  EXPECT_EQ(SampleId(row, {3.9f, 8.0f, 8.0f}), 1);
  // Repetition comes before presence and frequency: 8 / 2 - 4 = 0, not (8 - 4) / 2 = 2.
  SamplingRow both = row;
  both.repetition_penalty = 2;
  EXPECT_EQ(SampleId(both, {1.0f, -9.0f, 8.0f}), 0);
  // Bias comes before penalties: (1 + 7) / 2 = 4 of token 1.
  const std::pair<int32_t, float> bias[] = {{1, 7.0f}};
  EXPECT_EQ(SampleId({.temperature = 0, .repetition_penalty = 2, .bias = bias, .counts = &counts}, {4.1f, 1.0f, 0.0f}),
            0);
  EXPECT_EQ(SampleId({.temperature = 0, .repetition_penalty = 2, .bias = bias, .counts = &counts}, {3.9f, 1.0f, 0.0f}),
            1);
}

TEST(SampleRow, DraftTokensBeforeARowCountAsCommittedOutput) {
  Random random(testing::TestSeed(94));
  for (int round = 0; round < 200; ++round) {
    RandomRow random_row(random, 60);
    random_row.row.repetition_penalty = 1.3f;
    random_row.row.frequency_penalty = 0.7f;
    TokenCounts committed = random_row.counts;
    for (const int32_t id : random_row.extra) committed.AddOutputToken(id);
    SamplingRow later = random_row.row;
    later.counts = &committed;
    later.extra_tokens = {};
    EXPECT_EQ(Sample(random_row.row, random_row.logits).token_id, Sample(later, random_row.logits).token_id);
  }
}

TEST(SampleRow, MasksNeverLetATokenThrough) {
  const std::vector<int32_t> masked = {3, 1000, -5};
  const uint32_t allowed[1] = {0b10101100};
  std::vector<float> logits(8, 0.0f);
  logits[3] = 50.0f;
  for (uint32_t position = 0; position < 300; ++position) {
    const SamplingRow row{.seed = 4, .position = position, .masked_ids = masked};
    EXPECT_NE(SampleId(row, logits), 3);
    SamplingRow with_grammar = row;
    with_grammar.allowed_tokens = allowed;
    const int32_t id = SampleId(with_grammar, logits);
    EXPECT_TRUE(id == 2 || id == 5 || id == 7) << id;
    with_grammar.top_k = 6;  // more than are left
    const int32_t filtered = SampleId(with_grammar, logits);
    EXPECT_TRUE(filtered == 2 || filtered == 5 || filtered == 7) << filtered;
  }
}

TEST(SampleRow, ReportsRowsThatCannotBeSampled) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingRow row{.temperature = temperature};
    for (const std::vector<float>& logits :
         {std::vector<float>{1, NAN, 2}, {1, kInfinity, 2}, {-kInfinity, -kInfinity, -kInfinity}}) {
      const SampledToken token = Sample(row, logits);
      EXPECT_EQ(token.status, RowStatus::kNotFinite);
      EXPECT_EQ(token.token_id, -1);
    }
    EXPECT_EQ(SampleId(row, {-kInfinity, 1.0f, -kInfinity}), 1);
    const std::vector<int32_t> all = {0, 1};
    row.masked_ids = all;
    EXPECT_EQ(Sample(row, {1.0f, 2.0f}).status, RowStatus::kNothingLeft);
  }
  const std::vector<float> bad = {1, NAN};
  EXPECT_EQ(ArgMax(bad.data(), 2), -1);
}

TEST(SampleRow, LogprobsAreOfTheRawLogits) {
  const std::vector<int32_t> masked = {0};
  const SampledToken token = Sample({.temperature = 0, .masked_ids = masked, .num_logprobs = 2},
                                    {std::log(0.5f), std::log(0.2f), std::log(0.3f)});
  EXPECT_EQ(token.token_id, 2);
  EXPECT_NEAR(token.logprob, std::log(0.3), 1e-6);
  ASSERT_EQ(token.num_top, 2);
  EXPECT_EQ(token.top[0].token_id, 0);
  EXPECT_NEAR(token.top[0].logprob, std::log(0.5), 1e-6);
  EXPECT_EQ(token.top[1].token_id, 2);
}

TEST(SampleRows, ARowsTokenDoesNotDependOnItsNeighboursOrThreads) {
  Random random(testing::TestSeed(95));
  constexpr int kVocabSize = 300, kRows = 256;
  std::vector<RandomRow> random_rows;
  random_rows.reserve(kRows);
  std::vector<float> logits;
  std::vector<SamplingRow> rows;
  std::vector<int32_t> alone;
  for (int i = 0; i < kRows; ++i) {
    random_rows.emplace_back(random, kVocabSize);
    logits.insert(logits.end(), random_rows.back().logits.begin(), random_rows.back().logits.end());
  }
  for (RandomRow& r : random_rows) {
    r.row.counts = &r.counts;
    rows.push_back(r.row);
    alone.push_back(Sample(r.row, r.logits).token_id);
  }
  ThreadPool pool(3);
  std::vector<SamplingScratch> scratch;
  for (const size_t num_rows : {1, 5, 64, 65, 256}) {
    const size_t first = kRows - num_rows;
    std::vector<SampledToken> results(num_rows);
    ASSERT_EQ(SampleRows(std::span(rows).last(num_rows), logits.data() + first * kVocabSize, kVocabSize, kVocabSize,
                         results, pool, scratch),
              KernelError::kOk);
    for (size_t i = 0; i < num_rows; ++i) EXPECT_EQ(results[i].token_id, alone[first + i]);
  }
}

TEST(AcceptOrResample, GreedyKeepsTheDraftOnlyIfItIsTheChoice) {
  SamplingScratch scratch;
  const std::vector<float> logits = {0, 3, 1};
  const auto kept = AcceptOrResample({.temperature = 0}, logits.data(), 3, 1, scratch);
  EXPECT_TRUE(kept.accepted);
  const auto replaced = AcceptOrResample({.temperature = 0}, logits.data(), 3, 2, scratch);
  EXPECT_FALSE(replaced.accepted);
  EXPECT_EQ(replaced.token.token_id, 1);
}

TEST(AcceptOrResample, NeverKeepsAFilteredDraftNorReturnsARejectedOne) {
  SamplingScratch scratch;
  auto logits = RandomTensor(64, 3, {.scale = 2});
  for (uint32_t position = 0; position < 500; ++position) {
    const int32_t draft = static_cast<int32_t>(position % 64);
    const SamplingRow row{.top_k = 5, .seed = 8, .position = position};
    const auto outcome = AcceptOrResample(row, logits.data(), 64, draft, scratch);
    EXPECT_EQ(outcome.accepted, outcome.token.token_id == draft);
    const int better = static_cast<int>(std::count_if(logits.begin(), logits.end(), [&](float l) {
      return l > logits[static_cast<size_t>(outcome.token.token_id)];
    }));
    EXPECT_LT(better, 5);
  }
}

}  // namespace
}  // namespace outrider::kernels
