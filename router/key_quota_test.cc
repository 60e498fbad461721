#include "router/key_quota.h"

#include <gtest/gtest.h>

#include "router/retry_after.h"

namespace outrider::router {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
constexpr TimePoint kStart = TimePoint{} + std::chrono::hours(5);

void ExpectRefused(const absl::Status& status, const char* limit, Duration low, Duration high) {
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_NE(status.message().find(limit), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("'alice'"), absl::string_view::npos) << status;
  ASSERT_TRUE(RetryAfterOf(status).has_value());
  EXPECT_GE(*RetryAfterOf(status), low);
  EXPECT_LE(*RetryAfterOf(status), high);
}

TEST(KeyQuota, WithoutLimitsLetsEverythingIn) {
  KeyQuota quota("alice", {});
  for (int i = 0; i < 100'000; ++i) ASSERT_TRUE(quota.Enter(kStart).ok());
  quota.Charge(1'000'000'000, kStart);
  EXPECT_TRUE(quota.Enter(kStart).ok());
  EXPECT_EQ(quota.num_open(), 100'001);
}

TEST(KeyQuota, BoundsRequestsThatAreOpen) {
  KeyQuota quota("alice", {.max_concurrent_requests = 2});
  EXPECT_TRUE(quota.Enter(kStart).ok());
  EXPECT_TRUE(quota.Enter(kStart).ok());
  ExpectRefused(quota.Enter(kStart), "max_concurrent_requests = 2", milliseconds(1), seconds(1));
  quota.Leave();
  EXPECT_TRUE(quota.Enter(kStart).ok());
}

TEST(KeyQuota, GivesAMinutesRequestsAtOnceAndThenItsRate) {
  KeyQuota quota("alice", {.requests_per_minute = 60});
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(quota.Enter(kStart).ok()) << i;
  const absl::Status refused = quota.Enter(kStart);
  ExpectRefused(refused, "requests_per_minute = 60", milliseconds(1000), milliseconds(1002));
  // Who waits as long as it was told is let in; once.
  EXPECT_TRUE(quota.Enter(kStart + *RetryAfterOf(refused)).ok());
  EXPECT_FALSE(quota.Enter(kStart + *RetryAfterOf(refused)).ok());
}

TEST(KeyQuota, MakesAKeyWaitForTokensItUsedBeyondItsLimit) {
  KeyQuota quota("alice", {.tokens_per_minute = 6000});
  EXPECT_TRUE(quota.Enter(kStart).ok());
  quota.Charge(6000, kStart);
  EXPECT_TRUE(quota.Enter(kStart).ok()) << "all that it had is used, and no more";
  quota.Charge(1000, kStart);
  const absl::Status refused = quota.Enter(kStart);
  ExpectRefused(refused, "tokens_per_minute = 6000", seconds(10), milliseconds(10'002));
  EXPECT_TRUE(quota.Enter(kStart + *RetryAfterOf(refused)).ok());
}

TEST(KeyQuota, ARefusedRequestTakesNothing) {
  KeyQuota quota("alice", {.requests_per_minute = 2, .tokens_per_minute = 60, .max_concurrent_requests = 1});
  EXPECT_TRUE(quota.Enter(kStart).ok());
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(quota.Enter(kStart).ok());
  quota.Leave();
  quota.Charge(61, kStart);
  for (int i = 0; i < 10; ++i) ExpectRefused(quota.Enter(kStart), "tokens_per_minute", milliseconds(1), seconds(2));
  EXPECT_TRUE(quota.Enter(kStart + seconds(2)).ok()) << "one of two requests was left";
  EXPECT_EQ(quota.num_open(), 1);
}

TEST(KeyQuota, TakesOtherLimitsWhileRequestsAreOpen) {
  KeyQuota quota("alice", {.requests_per_minute = 1});
  EXPECT_TRUE(quota.Enter(kStart).ok());
  EXPECT_FALSE(quota.Enter(kStart).ok());
  quota.SetLimits({.requests_per_minute = 3, .max_concurrent_requests = 2}, kStart);
  EXPECT_TRUE(quota.Enter(kStart).ok());
  ExpectRefused(quota.Enter(kStart), "max_concurrent_requests = 2", milliseconds(1), seconds(1));
  quota.SetLimits({}, kStart);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(quota.Enter(kStart).ok());
}

}  // namespace
}  // namespace outrider::router
