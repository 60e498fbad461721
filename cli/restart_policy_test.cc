#include "cli/restart_policy.h"

#include <gtest/gtest.h>

#include <set>

namespace outrider {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

void ExpectWithin(Duration delay, Duration whole) {
  EXPECT_GE(delay, whole / 2);
  EXPECT_LE(delay, whole);
}

TEST(RestartPolicy, DoublesTheDelayOfAUnitThatKeepsEndingUpToABound) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    RestartPolicy policy(seed);
    TimePoint now{};
    ExpectWithin(policy.OnExit(now, now), milliseconds(100));
    ExpectWithin(policy.OnExit(now, now), milliseconds(200));
    ExpectWithin(policy.OnExit(now, now), milliseconds(400));
    for (int i = 0; i < 100; ++i) policy.OnExit(now, now);
    ExpectWithin(policy.OnExit(now, now), seconds(5));
  }
}

TEST(RestartPolicy, ForgivesAUnitThatWasWellForLong) {
  RestartPolicy policy;
  TimePoint now{};
  policy.OnExit(now, now);
  policy.OnExit(now, now);
  EXPECT_EQ(policy.num_early_exits(), 2);
  ExpectWithin(policy.OnExit(now, now + seconds(10)), milliseconds(100));
  EXPECT_EQ(policy.num_early_exits(), 1);
}

TEST(RestartPolicy, SpreadsUnitsByTheirSeedsAndRepeatsEach) {
  std::set<Duration> delays;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    RestartPolicy policy(seed), again(seed);
    const Duration delay = policy.OnExit({}, {});
    EXPECT_EQ(delay, again.OnExit({}, {}));
    delays.insert(delay);
  }
  EXPECT_GT(delays.size(), 45u);
}

}  // namespace
}  // namespace outrider
