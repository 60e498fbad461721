#include "router/failure_detector.h"

#include <gtest/gtest.h>

namespace outrider::router {
namespace {

using std::chrono::milliseconds;
constexpr TimePoint kStart{};

TEST(FailureDetector, SuspectsHalfATimeoutAfterTheLastHeartbeatAndGivesUpAfterTheWhole) {
  FailureDetector detector(milliseconds(1000));
  detector.Heard("a", kStart);
  for (int ms = 0; ms <= 1000; ms += 100) detector.Look(kStart + milliseconds(ms));
  EXPECT_EQ(detector.Judge("a", kStart + milliseconds(499)), Liveness::kAlive);
  EXPECT_EQ(detector.Judge("a", kStart + milliseconds(500)), Liveness::kSuspect);
  EXPECT_EQ(detector.Judge("a", kStart + milliseconds(999)), Liveness::kSuspect);
  EXPECT_EQ(detector.Judge("a", kStart + milliseconds(1000)), Liveness::kDead);
  detector.Heard("a", kStart + milliseconds(1000));
  EXPECT_EQ(detector.Judge("a", kStart + milliseconds(1100)), Liveness::kAlive);
}

TEST(FailureDetector, HoldsNobodyDeadAfterItStoodStillItself) {
  FailureDetector detector(milliseconds(1000));
  detector.Heard("a", kStart);
  detector.Look(kStart);
  const TimePoint woken = kStart + milliseconds(60000);
  detector.Look(woken);
  EXPECT_EQ(detector.Judge("a", woken), Liveness::kSuspect);
  for (int ms = 0; ms < 1000; ms += 100) detector.Look(woken + milliseconds(ms));
  EXPECT_EQ(detector.Judge("a", woken + milliseconds(999)), Liveness::kSuspect);
  EXPECT_EQ(detector.Judge("a", woken + milliseconds(1000)), Liveness::kDead);
}

TEST(FailureDetector, TakesWhoWasNeverHeardForDead) {
  FailureDetector detector(milliseconds(1000));
  detector.Heard("a", kStart);
  detector.Forget("a");
  EXPECT_EQ(detector.Judge("a", kStart), Liveness::kDead);
}

}  // namespace
}  // namespace outrider::router
