#include "worker/speculation/acceptance_stats.h"

#include <gtest/gtest.h>

#include <random>

namespace outrider {
namespace {

TimePoint At(double milliseconds) { return TimePoint{} + FromMillis(milliseconds); }

TEST(AcceptanceStats, BelievesThePriorBeforeAnythingWasSeen) {
  EXPECT_DOUBLE_EQ(AcceptanceStats().Rate(0, 0.6, At(0)), 0.6);
}

TEST(AcceptanceStats, CountsOnlyPositionsThatWereReached) {
  AcceptanceStats stats;
  for (int i = 0; i < 100; ++i) stats.Observe(4, 1, At(i));  // the first accepted, the second not
  EXPECT_GT(stats.Rate(0, 0.5, At(100)), 0.95);
  EXPECT_LT(stats.Rate(1, 0.5, At(100)), 0.1);
  EXPECT_DOUBLE_EQ(stats.Rate(2, 0.5, At(100)), 0.5);
}

TEST(AcceptanceStats, FindsTheRatesOfAKnownSource) {
  std::mt19937_64 random(1);
  std::bernoulli_distribution accepts(0.7);
  AcceptanceStats stats;
  double sum[3] = {};
  for (int i = 0; i < 4000; ++i) {
    int num_accepted = 0;
    while (num_accepted < 4 && accepts(random)) ++num_accepted;
    stats.Observe(4, num_accepted, At(i));
    for (int k = 0; k < 3; ++k) sum[k] += stats.Rate(k, 0.7, At(i)) / 4000;
  }
  for (const double rate : sum) EXPECT_NEAR(rate, 0.7, 0.03);
}

TEST(AcceptanceStats, FollowsAChange) {
  AcceptanceStats stats;
  for (int i = 0; i < 1000; ++i) stats.Observe(1, 0, At(i));
  for (int i = 0; i < 150; ++i) stats.Observe(1, 1, At(1000 + i));
  EXPECT_GT(stats.Rate(0, 0.6, At(1150)), 0.9);
}

TEST(AcceptanceStats, HopesAgainAsTimeGoesBy) {
  AcceptanceStats stats;
  for (int i = 0; i < 1000; ++i) stats.Observe(1, 0, At(i));
  EXPECT_LT(stats.Rate(0, 0.6, At(1000)), 0.06);
  EXPECT_LT(stats.Rate(0, 0.6, At(31000)), 0.1);
  EXPECT_GT(stats.Rate(0, 0.6, At(151000)), 0.4);
}

TEST(AcceptanceStats, ASequenceStartsFromItsSourceAndOnePositionFromTheOneBefore) {
  AcceptanceStats sequence, source;
  for (int i = 0; i < 200; ++i) source.Observe(2, 2, At(i));
  double rates[4];
  AcceptanceStats::Rates(sequence, source, At(200), 4, rates);
  EXPECT_GT(rates[0], 0.95);
  EXPECT_NEAR(rates[3], rates[1], 1e-9);
  for (int i = 0; i < 20; ++i) sequence.Observe(1, 0, At(200));
  AcceptanceStats::Rates(sequence, source, At(200), 4, rates);
  EXPECT_LT(rates[0], 0.25);
}

}  // namespace
}  // namespace outrider
