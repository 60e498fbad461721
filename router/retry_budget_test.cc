#include "router/retry_budget.h"

#include <gtest/gtest.h>

namespace outrider::router {
namespace {

using std::chrono::milliseconds;
constexpr TimePoint kStart{};

TEST(RetryBudget, GivesItsBurstAtOnceAndThenItsRate) {
  RetryBudget budget({.burst = 3, .per_second = 10});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(budget.TryTake(kStart));
  EXPECT_FALSE(budget.TryTake(kStart));
  int taken = 0;
  for (int ms = 1; ms <= 2000; ++ms) taken += budget.TryTake(kStart + milliseconds(ms));
  EXPECT_GE(taken, 19);
  EXPECT_LE(taken, 20);
}

TEST(RetryBudget, SaysWhenTheNextIsThere) {
  RetryBudget budget({.burst = 1, .per_second = 10});
  EXPECT_EQ(budget.NextAt(kStart), kStart);
  EXPECT_TRUE(budget.TryTake(kStart));
  const TimePoint next = budget.NextAt(kStart);
  EXPECT_GE(next, kStart + milliseconds(100));
  EXPECT_LE(next, kStart + milliseconds(102));
  EXPECT_FALSE(budget.TryTake(kStart + milliseconds(99)));
  EXPECT_TRUE(budget.TryTake(next));
}

TEST(RetryBudget, SavesNoMoreThanItsBurst) {
  RetryBudget budget({.burst = 2, .per_second = 1000});
  EXPECT_TRUE(budget.TryTake(kStart));
  const TimePoint later = kStart + std::chrono::hours(1);
  EXPECT_TRUE(budget.TryTake(later));
  EXPECT_TRUE(budget.TryTake(later));
  EXPECT_FALSE(budget.TryTake(later));
}

}  // namespace
}  // namespace outrider::router
