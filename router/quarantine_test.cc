#include "router/quarantine.h"

#include <gtest/gtest.h>

namespace outrider::router {
namespace {

constexpr TimePoint kStart{};

TEST(Quarantine, KeepsARequestForItsTimeAndNoLonger) {
  Quarantine quarantine;
  quarantine.Add(7, kStart);
  EXPECT_EQ(quarantine.Remaining(7, kStart), Quarantine::kFor);
  EXPECT_EQ(quarantine.Remaining(8, kStart), Duration::zero());
  EXPECT_EQ(quarantine.Remaining(7, kStart + Quarantine::kFor), Duration::zero());
}

TEST(Quarantine, KeepsARequestThatIsAddedAgainFromThenOn) {
  Quarantine quarantine;
  quarantine.Add(7, kStart);
  const TimePoint again = kStart + Quarantine::kFor / 2;
  quarantine.Add(7, again);
  quarantine.Add(8, kStart + Quarantine::kFor);
  EXPECT_EQ(quarantine.Remaining(7, again), Quarantine::kFor);
}

TEST(Quarantine, LetsTheOldestGoAtItsBound) {
  Quarantine quarantine;
  for (uint64_t i = 0; i < Quarantine::kMaxRequests + 10; ++i) quarantine.Add(i, kStart);
  EXPECT_EQ(quarantine.size(), Quarantine::kMaxRequests);
  EXPECT_EQ(quarantine.Remaining(9, kStart), Duration::zero());
  EXPECT_GT(quarantine.Remaining(10, kStart), Duration::zero());
}

}  // namespace
}  // namespace outrider::router
