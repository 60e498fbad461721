#include "tracing/export_policy.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

using Code = absl::StatusCode;
constexpr TimePoint kStart = TimePoint() + std::chrono::hours(1);

TEST(ExportPolicy, CountsWhatWasTaken) {
  ExportPolicy policy;
  const auto decision = policy.OnAnswer(Code::kOk, 0, 10, 0, kStart);
  EXPECT_FALSE(decision.again.has_value());
  EXPECT_EQ(decision.num_exported, 10);
  EXPECT_EQ(decision.num_refused, 0);
  EXPECT_FALSE(decision.tell);
}

TEST(ExportPolicy, SendsAgainLaterAndLaterThenGivesUp) {
  ExportPolicy policy;
  Duration before{};
  for (int i = 1; i < ExportPolicy::kTriesMax; ++i) {
    const auto decision = policy.OnAnswer(Code::kUnavailable, 0, 10, 0, kStart);
    ASSERT_TRUE(decision.again.has_value());
    EXPECT_GT(*decision.again, before);
    before = *decision.again;
    EXPECT_EQ(decision.num_given_up, 0);
  }
  EXPECT_LE(before, std::chrono::seconds(4));
  const auto last = policy.OnAnswer(Code::kUnavailable, 0, 10, 0, kStart);
  EXPECT_FALSE(last.again.has_value());
  EXPECT_EQ(last.num_given_up, 10);
  // The next batch begins anew.
  EXPECT_TRUE(policy.OnAnswer(Code::kDeadlineExceeded, 0, 10, 0, kStart).again.has_value());
}

TEST(ExportPolicy, SpreadsThoseWhoTryAgain) {
  ExportPolicy policy;
  EXPECT_EQ(*policy.OnAnswer(Code::kUnavailable, 0, 1, 0, kStart).again, std::chrono::milliseconds(500));
  ExportPolicy other;
  EXPECT_EQ(*other.OnAnswer(Code::kUnavailable, 0, 1, 0.5, kStart).again, std::chrono::milliseconds(750));
}

TEST(ExportPolicy, SendsNothingAgainThatIsRefusedForGood) {
  for (const Code code : {Code::kInvalidArgument, Code::kUnimplemented, Code::kUnauthenticated, Code::kInternal,
                          Code::kResourceExhausted, Code::kPermissionDenied}) {
    ExportPolicy policy;
    const auto decision = policy.OnAnswer(code, 0, 10, 0, kStart);
    EXPECT_FALSE(decision.again.has_value());
    EXPECT_EQ(decision.num_refused, 10);
    EXPECT_TRUE(decision.tell);
  }
}

TEST(ExportPolicy, BelievesNoCollectorThatRejectsMoreThanItGot) {
  ExportPolicy policy;
  EXPECT_EQ(policy.OnAnswer(Code::kOk, 3, 10, 0, kStart).num_exported, 7);
  EXPECT_EQ(policy.OnAnswer(Code::kOk, 11, 10, 0, kStart).num_refused, 10);
  EXPECT_EQ(policy.OnAnswer(Code::kOk, INT64_MIN, 10, 0, kStart).num_exported, 10);
}

TEST(ExportPolicy, TellsOfAFailureOnceAndOfItsEndOnce) {
  ExportPolicy policy;
  EXPECT_TRUE(policy.OnAnswer(Code::kUnavailable, 0, 1, 0, kStart).tell);
  EXPECT_FALSE(policy.OnAnswer(Code::kUnavailable, 0, 1, 0, kStart + std::chrono::hours(1)).tell);
  EXPECT_TRUE(policy.OnAnswer(Code::kOk, 0, 1, 0, kStart + std::chrono::hours(2)).tell);
  EXPECT_FALSE(policy.OnAnswer(Code::kOk, 0, 1, 0, kStart + std::chrono::hours(3)).tell);
}

TEST(ExportPolicy, FillsNoLogForACollectorThatComesAndGoes) {
  ExportPolicy policy;
  int num_told = 0;
  TimePoint now = kStart;
  for (int i = 0; i < 6000; ++i, now += std::chrono::milliseconds(100)) {  // 10 minutes
    num_told += policy.OnAnswer(i % 2 == 0 ? Code::kInternal : Code::kOk, 0, 1, 0, now).tell;
  }
  EXPECT_GE(num_told, 2);
  EXPECT_LE(num_told, 10);
}

TEST(ExportPolicy, GivesUpAtOnceWhenTheProcessEnds) {
  ExportPolicy policy;
  const auto decision = policy.OnLastAnswer(Code::kCancelled, 0, 5, kStart);
  EXPECT_FALSE(decision.again.has_value());
  EXPECT_EQ(decision.num_given_up, 5);
}

}  // namespace
}  // namespace outrider
