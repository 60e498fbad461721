#include "cli/restart_policy.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RestartPolicy, DoublesTheDelayOfAUnitThatKeepsEndingUpToABound) {
  RestartPolicy policy;
  TimePoint now{};
  EXPECT_EQ(policy.OnExit(now, now), milliseconds(100));
  EXPECT_EQ(policy.OnExit(now, now), milliseconds(200));
  EXPECT_EQ(policy.OnExit(now, now), milliseconds(400));
  for (int i = 0; i < 100; ++i) policy.OnExit(now, now);
  EXPECT_EQ(policy.OnExit(now, now), seconds(5));
}

TEST(RestartPolicy, ForgivesAUnitThatLivedLong) {
  RestartPolicy policy;
  TimePoint now{};
  policy.OnExit(now, now);
  policy.OnExit(now, now);
  EXPECT_EQ(policy.num_early_exits(), 2);
  EXPECT_EQ(policy.OnExit(now, now + seconds(10)), milliseconds(100));
  EXPECT_EQ(policy.num_early_exits(), 1);
}

}  // namespace
}  // namespace outrider
