#include "router/retry_policy.h"

#include <gtest/gtest.h>

namespace outrider::router {
namespace {

TEST(RetryPolicy, SendsALostAttemptAnywhereWhileNothingWasDelivered) {
  EXPECT_EQ(DecideRetry({.attempt = 1, .tokens_delivered = false}), RetryDecision::kAnyGroup);
}

TEST(RetryPolicy, ContinuesDeliveredTokensOnlyOnEqualNumerics) {
  EXPECT_EQ(DecideRetry({.attempt = 2, .tokens_delivered = true}), RetryDecision::kEqualNumerics);
}

TEST(RetryPolicy, GivesUpAfterTwoReplays) {
  EXPECT_EQ(DecideRetry({.attempt = kMaxAttempts, .tokens_delivered = false}), RetryDecision::kGiveUp);
}

TEST(RetryPolicy, TriesAFullGroupAgainOnlyWhileNothingWasDelivered) {
  const auto code = absl::StatusCode::kResourceExhausted;
  EXPECT_EQ(DecideRetry({.attempt = 1, .tokens_delivered = false, .code = code}), RetryDecision::kAnyGroup);
  EXPECT_EQ(DecideRetry({.attempt = 1, .tokens_delivered = true, .code = code}), RetryDecision::kGiveUp);
}

TEST(RetryPolicy, NeverRetriesWhatCanNotWork) {
  for (const auto code : {absl::StatusCode::kInvalidArgument, absl::StatusCode::kInternal,
                          absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kFailedPrecondition}) {
    EXPECT_EQ(DecideRetry({.attempt = 1, .tokens_delivered = false, .code = code}), RetryDecision::kGiveUp);
  }
}

}  // namespace
}  // namespace outrider::router
