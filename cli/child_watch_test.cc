#include "cli/child_watch.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

using Answer = ChildWatch::Answer;
using std::chrono::milliseconds;

class ChildWatchTest : public ::testing::Test {
 protected:
  // Asks every 250 ms for so long and always hears the same. Whether it hangs then.
  bool HangsAfter(Answer answer, int ms) {
    for (const TimePoint end = now_ + milliseconds(ms); now_ < end;) {
      now_ += milliseconds(250);
      watch_.Heard(answer, now_);
    }
    return watch_.Hangs();
  }
  TimePoint now_{};
  ChildWatch watch_{{}, TimePoint{}};
};

TEST_F(ChildWatchTest, FindsAProcessThatFallsSilent) {
  EXPECT_FALSE(HangsAfter(Answer::kReady, 60'000));
  EXPECT_FALSE(HangsAfter(Answer::kNone, 2500));
  EXPECT_TRUE(HangsAfter(Answer::kNone, 250));
}

TEST_F(ChildWatchTest, BelievesAProcessThatSaysItHangs) {
  EXPECT_FALSE(HangsAfter(Answer::kLive, 1000));
  EXPECT_TRUE(HangsAfter(Answer::kNotLive, 2750));
}

TEST_F(ChildWatchTest, DoesNotMindProcessesThatAreNotReady) { EXPECT_FALSE(HangsAfter(Answer::kLive, 600'000)); }

TEST_F(ChildWatchTest, GivesAProcessTimeToStart) {
  EXPECT_FALSE(HangsAfter(Answer::kNone, 30'000));
  EXPECT_TRUE(HangsAfter(Answer::kNone, 250));
}

TEST_F(ChildWatchTest, KnowsSinceWhenAProcessIsReady) {
  HangsAfter(Answer::kLive, 1000);
  EXPECT_FALSE(watch_.ready_since().has_value());
  HangsAfter(Answer::kReady, 1000);
  EXPECT_EQ(watch_.ready_since(), TimePoint{} + milliseconds(1250));
  HangsAfter(Answer::kNone, 250);
  EXPECT_FALSE(watch_.ready_since().has_value());
}

TEST_F(ChildWatchTest, BlamesNobodyForATimeInWhichItDidNotAsk) {
  HangsAfter(Answer::kReady, 1000);
  now_ += std::chrono::hours(1);
  watch_.Heard(Answer::kNone, now_);
  EXPECT_FALSE(watch_.Hangs());
  EXPECT_FALSE(HangsAfter(Answer::kNone, 2500));
  EXPECT_TRUE(HangsAfter(Answer::kNone, 250));
}

}  // namespace
}  // namespace outrider
