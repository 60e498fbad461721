#include "worker/speculation/lookahead_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

namespace outrider {
namespace {

LookaheadCandidate Candidate(double rate, int lookahead_max = kMaxLookahead, bool waits = true) {
  LookaheadCandidate candidate{.lookahead_max = lookahead_max, .waits = waits};
  candidate.rates.fill(rate);
  return candidate;
}

// A step takes fixed_ms and row_ms a row.
StepCostModel Cost(double fixed_ms, double row_ms) {
  StepCostModel cost;
  for (int rows = 1; rows <= 1024; rows *= 2) cost.Observe(rows, fixed_ms + row_ms * rows);
  return cost;
}

LookaheadBatch Batch(const std::vector<LookaheadCandidate>& candidates, const StepCostModel& cost,
                     double draft_ms_per_token) {
  LookaheadBatch batch{.candidates = candidates, .cost = &cost, .wait_ms_max = 1000};
  for (int k = 1; k <= kMaxLookahead; ++k) batch.latency_ms[k] = k * draft_ms_per_token;
  return batch;
}

TEST(ChooseLookaheads, AgreesWithTheSumsForOneSequence) {
  for (const double rate : {0.3, 0.56, 0.8, 0.95}) {
    for (const double row_ms : {0.0, 0.5, 2.0}) {
      for (const double draft_ms : {0.2, 1.0, 4.0}) {
        const StepCostModel cost = Cost(10, row_ms);
        const std::vector<LookaheadCandidate> candidates = {Candidate(rate)};
        const LookaheadChoice choice = ChooseLookaheads(Batch(candidates, cost, draft_ms));
        // E = (1 - a^(K+1)) / (1 - a) tokens in K draft steps and a verify step of K + 1 rows.
        double best = 1 / (10 + row_ms);
        for (const int k : {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32}) {
          const double tokens = (1 - std::pow(rate, k + 1)) / (1 - rate);
          best = std::max(best, tokens / (k * draft_ms + 10 + row_ms * (k + 1)));
        }
        EXPECT_GT(choice.tokens_per_ms, best / kLookaheadGainMin) << rate << " " << row_ms << " " << draft_ms;
        EXPECT_LE(choice.tokens_per_ms, best * 1.0001);
      }
    }
  }
}

TEST(ChooseLookaheads, AsksForNothingWhenNothingIsGained) {
  const StepCostModel cost = Cost(10, 1);
  EXPECT_EQ(ChooseLookaheads(Batch({Candidate(0.0)}, cost, 1)).asks[0], 0);     // never accepted
  EXPECT_EQ(ChooseLookaheads(Batch({Candidate(0.5)}, cost, 20)).asks[0], 0);    // drafts slower than steps
  EXPECT_EQ(ChooseLookaheads(Batch({Candidate(0.5, 0)}, cost, 1)).asks[0], 0);  // at its last token
  const StepCostModel steep = Cost(0.1, 10);
  EXPECT_EQ(ChooseLookaheads(Batch({Candidate(0.6)}, steep, 0.1)).asks[0], 0);  // every row costs a step
  EXPECT_TRUE(ChooseLookaheads(Batch({}, cost, 1)).asks.empty());
}

TEST(ChooseLookaheads, DoesNotAskForWhatComesTooLate) {
  const StepCostModel cost = Cost(100, 0.1);
  const std::vector<LookaheadCandidate> candidates = {Candidate(0.9)};
  LookaheadBatch batch = Batch(candidates, cost, 2);
  batch.wait_ms_max = 10;
  const int asked = ChooseLookaheads(batch).asks[0];
  EXPECT_GT(asked, 0);
  EXPECT_LE(asked * 2, 10);
  batch.wait_ms_max = 1;
  EXPECT_EQ(ChooseLookaheads(batch).asks[0], 0);
}

TEST(ChooseLookaheads, DraftsThatAreThereAreUsedThoughWaitingDoesNotPay) {
  const StepCostModel cost = Cost(10, 0.1);
  const LookaheadChoice choice =
      ChooseLookaheads(Batch({Candidate(0.7, 8, /*waits=*/false), Candidate(0.7, 8)}, cost, 50));
  EXPECT_GT(choice.lookaheads[0], 2);
  EXPECT_EQ(choice.lookaheads[1], 0);
}

TEST(ChooseLookaheads, AllThatWaitAskForTheSameNumberAndVerifyWhatPays) {
  const StepCostModel cost = Cost(10, 0.5);
  const LookaheadChoice choice = ChooseLookaheads(Batch({Candidate(0.9), Candidate(0.9), Candidate(0.3)}, cost, 0.5));
  EXPECT_EQ(choice.asks[0], choice.asks[1]);
  EXPECT_GT(choice.lookaheads[0], choice.lookaheads[2]);
  EXPECT_TRUE(choice.asks[2] == choice.asks[0] || choice.asks[2] == 0);
}

TEST(ChooseLookaheads, FewerInABusyBatchWhereRowsCost) {
  const StepCostModel cost = Cost(10, 0.5);
  const int alone = ChooseLookaheads(Batch({Candidate(0.6)}, cost, 0.1)).lookaheads[0];
  const std::vector<LookaheadCandidate> many(64, Candidate(0.6));
  const int busy = ChooseLookaheads(Batch(many, cost, 0.1)).lookaheads[0];
  EXPECT_LT(busy, alone);
}

// What a choice is worth, said again.
double TokensPerMs(const LookaheadBatch& batch, const std::vector<int>& lookaheads) {
  const int num_sequences = static_cast<int>(lookaheads.size());
  double tokens = num_sequences, others_tokens = 0, wait_ms = 0;
  int rows = num_sequences, others_rows = 0;
  bool waits = false;
  for (int s = 0; s < num_sequences; ++s) {
    const LookaheadCandidate& candidate = batch.candidates[s];
    double chance = 1, expected = 0;
    for (int k = 0; k < lookaheads[s]; ++k) expected += chance *= candidate.rates[k];
    tokens += expected;
    rows += lookaheads[s];
    if (!candidate.waits || candidate.lookahead_max == 0) {
      others_rows += 1 + lookaheads[s];
      others_tokens += 1 + expected;
    } else if (lookaheads[s] > 0) {
      waits = true;
      wait_ms = std::max(wait_ms, batch.latency_ms[lookaheads[s]]);
    }
  }
  if (!waits) return tokens / batch.cost->EstimateMs(rows);
  if (others_rows == 0) return tokens / (wait_ms + batch.cost->EstimateMs(rows));
  return (tokens + others_tokens) /
         (std::max(wait_ms, batch.cost->EstimateMs(others_rows)) + batch.cost->EstimateMs(rows));
}

TEST(ChooseLookaheads, IsWorthAsMuchAsTheBestOfAllChoices) {
  std::mt19937 random(7);
  const auto uniform = [&](double low, double high) { return std::uniform_real_distribution<>(low, high)(random); };
  for (int repeat = 0; repeat < 300; ++repeat) {
    StepCostModel cost;  // with stairs anywhere
    double ms = 5;
    for (int rows = 1; rows <= 40; ++rows) {
      ms += uniform(0, 1) < 0.2 ? uniform(0, 8) : uniform(0, 0.3);
      for (int i = 0; i < 5; ++i) cost.Observe(rows, ms);
    }
    std::vector<LookaheadCandidate> candidates;
    const int num_sequences = 1 + repeat % 3;
    for (int s = 0; s < num_sequences; ++s) {
      candidates.push_back(Candidate(0, 5, /*waits=*/uniform(0, 1) < 0.5));
      for (double& rate : candidates.back().rates) rate = uniform(0, 1);
    }
    const LookaheadBatch batch = Batch(candidates, cost, uniform(0, 1));
    double best = 0;
    for (int code = 0; code < std::pow(6, num_sequences); ++code) {
      std::vector<int> lookaheads;
      for (int s = 0, rest = code; s < num_sequences; ++s, rest /= 6) lookaheads.push_back(rest % 6);
      best = std::max(best, TokensPerMs(batch, lookaheads));
    }
    // Where some wait, those that do not run their draft rows twice, which the order by chance does not know.
    const bool mixed = std::any_of(candidates.begin(), candidates.end(), [&](const LookaheadCandidate& candidate) {
      return candidate.waits != candidates[0].waits;
    });
    const LookaheadChoice choice = ChooseLookaheads(batch);
    EXPECT_GE(TokensPerMs(batch, choice.lookaheads) * kLookaheadGainMin, best * (mixed ? 0.95 : 0.9999))
        << "repeat " << repeat;
  }
}

TEST(ChooseLookaheads, AStepAheadDoesNotTakeAwayTheRowsThatPay) {
  StepCostModel cost;  // 6 rows were slow when they were measured
  for (int i = 0; i < 20; ++i) {
    for (const auto& [rows, ms] : {std::pair(1, 6.0), {2, 6.9}, {3, 7.1}, {5, 8.8}, {6, 19.5}}) cost.Observe(rows, ms);
  }
  const LookaheadChoice choice = ChooseLookaheads(Batch({Candidate(0.95, 8, /*waits=*/false)}, cost, 0));
  EXPECT_GE(choice.lookaheads[0], 4);
}

TEST(ChooseLookaheads, TriesOnlyTwiceTheRowsThatWereMeasured) {
  StepCostModel cost;
  cost.Observe(1, 10);
  const int first = ChooseLookaheads(Batch({Candidate(0.95)}, cost, 0.01)).asks[0];
  EXPECT_GT(first, 0);
  EXPECT_LE(first, 4);
  EXPECT_GT(ChooseLookaheads(Batch({Candidate(0.95)}, StepCostModel(), 0.01)).asks[0], 0);
}

}  // namespace
}  // namespace outrider
