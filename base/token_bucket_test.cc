#include "base/token_bucket.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

using std::chrono::milliseconds;
constexpr TimePoint kStart{};

TEST(TokenBucket, GivesItsBurstAtOnceAndThenItsRate) {
  TokenBucket bucket({.burst = 3, .per_second = 10});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bucket.TryTake(kStart));
  EXPECT_FALSE(bucket.TryTake(kStart));
  int taken = 0;
  for (int ms = 1; ms <= 2000; ++ms) taken += bucket.TryTake(kStart + milliseconds(ms));
  EXPECT_GE(taken, 19);
  EXPECT_LE(taken, 20);
}

TEST(TokenBucket, SaysWhenTheNextIsThere) {
  TokenBucket bucket({.burst = 1, .per_second = 10});
  EXPECT_EQ(bucket.NextAt(kStart), kStart);
  EXPECT_TRUE(bucket.TryTake(kStart));
  const TimePoint next = bucket.NextAt(kStart);
  EXPECT_GE(next, kStart + milliseconds(100));
  EXPECT_LE(next, kStart + milliseconds(102));
  EXPECT_FALSE(bucket.TryTake(kStart + milliseconds(99)));
  EXPECT_TRUE(bucket.TryTake(next));
}

TEST(TokenBucket, SavesNoMoreThanItsBurst) {
  TokenBucket bucket({.burst = 2, .per_second = 1000});
  EXPECT_TRUE(bucket.TryTake(kStart));
  const TimePoint later = kStart + std::chrono::hours(1);
  EXPECT_TRUE(bucket.TryTake(later));
  EXPECT_TRUE(bucket.TryTake(later));
  EXPECT_FALSE(bucket.TryTake(later));
}

TEST(TokenBucket, GetsOverItsDebtBeforeItGivesAgain) {
  TokenBucket bucket({.burst = 10, .per_second = 10});
  bucket.Take(25, kStart);
  EXPECT_FALSE(bucket.TryTake(kStart));
  EXPECT_GE(bucket.NextAt(kStart, 0), kStart + milliseconds(1500));
  EXPECT_LE(bucket.NextAt(kStart, 0), kStart + milliseconds(1502));
  EXPECT_FALSE(bucket.TryTake(kStart + milliseconds(1590)));
  EXPECT_TRUE(bucket.TryTake(kStart + milliseconds(1610)));
}

TEST(TokenBucket, KeepsWhatWasTakenUnderAnotherRate) {
  TokenBucket bucket({.burst = 4, .per_second = 1});
  bucket.Take(3, kStart);
  bucket.SetOptions({.burst = 6, .per_second = 1000}, kStart);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bucket.TryTake(kStart));
  EXPECT_FALSE(bucket.TryTake(kStart));
  EXPECT_TRUE(bucket.TryTake(kStart + milliseconds(2)));
  bucket.SetOptions({.burst = 2, .per_second = 1}, kStart + milliseconds(2));
  EXPECT_FALSE(bucket.TryTake(kStart + milliseconds(2)));
}

}  // namespace
}  // namespace outrider
