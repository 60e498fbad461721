#include "worker/parallel/bounded_poll.h"

#include <vector>

#include "gtest/gtest.h"

namespace outrider {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// A poll under a clock that only its pauses advance.
struct Wait {
  ManualClock clock;
  std::vector<Duration> pauses;
  int num_asked = 0;

  template <typename IsDone>
  absl::Status Run(Duration bound, const IsDone& is_done) {
    return BoundedPoll(
        clock, bound, "meeting rank 1",
        [&] {
          ++num_asked;
          return is_done();
        },
        [&](Duration pause) {
          pauses.push_back(pause);
          clock.Advance(pause);
        });
  }
};

TEST(BoundedPoll, WhatIsDoneIsNotWaitedFor) {
  Wait wait;
  EXPECT_TRUE(wait.Run(milliseconds(10), [] { return absl::StatusOr<bool>(true); }).ok());
  EXPECT_TRUE(wait.pauses.empty());
}

TEST(BoundedPoll, PausesGrowToTheirLongestAndEndAtTheBound) {
  Wait wait;
  const TimePoint start = wait.clock.Now();
  const absl::Status status = wait.Run(milliseconds(20), [] { return absl::StatusOr<bool>(false); });
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.message(), "meeting rank 1 took more than 20 ms");
  EXPECT_EQ(wait.clock.Now() - start, milliseconds(20));  // neither before nor after
  ASSERT_GE(wait.pauses.size(), 9u);
  EXPECT_EQ(wait.pauses[0], microseconds(50));
  EXPECT_EQ(wait.pauses[1], microseconds(100));
  for (const Duration pause : wait.pauses) EXPECT_LE(pause, milliseconds(5));
  EXPECT_EQ(wait.num_asked, static_cast<int>(wait.pauses.size()) + 1);
}

TEST(BoundedPoll, WhatIsDoneAtTheBoundCounts) {
  Wait wait;
  const TimePoint end = wait.clock.Now() + milliseconds(3);
  EXPECT_TRUE(wait.Run(milliseconds(3), [&] { return absl::StatusOr<bool>(wait.clock.Now() >= end); }).ok());
}

TEST(BoundedPoll, AnErrorEndsItAtOnce) {
  Wait wait;
  const absl::Status status = wait.Run(milliseconds(10), [&]() -> absl::StatusOr<bool> {
    if (wait.num_asked < 3) return false;
    return absl::UnavailableError("rank 1 is gone");
  });
  EXPECT_EQ(status.message(), "rank 1 is gone");
  EXPECT_EQ(wait.num_asked, 3);
}

TEST(BoundedPoll, WithoutTimeItAsksOnce) {
  Wait wait;
  EXPECT_FALSE(wait.Run(Duration::zero(), [] { return absl::StatusOr<bool>(false); }).ok());
  EXPECT_EQ(wait.num_asked, 1);
}

}  // namespace
}  // namespace outrider
