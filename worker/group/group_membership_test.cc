#include "worker/group/group_membership.h"

#include <gtest/gtest.h>

#include <string>

namespace outrider {
namespace {

constexpr TimePoint kStart{};

GroupMembership::Options ThreeRanks() {
  return {.epoch = 9,
          .world_size = 3,
          .numerics_id = "aa",
          .num_kv_blocks_max = 500,
          .silence_max = std::chrono::seconds(2),
          .step_max = std::chrono::seconds(2)};
}

RankHello Hello(int rank) {
  return {.rank = rank, .world_size = 3, .incarnation = 1, .numerics_id = "aa", .num_kv_blocks_max = 100 * rank + 200};
}

TEST(GroupMembership, IsCompleteWhenEveryRankIsIn) {
  GroupMembership group(ThreeRanks());
  EXPECT_EQ(group.MissingRanks(), "1, 2");
  EXPECT_TRUE(group.Join(Hello(2), kStart).ok());
  EXPECT_FALSE(group.complete());
  EXPECT_EQ(group.MissingRanks(), "1");
  EXPECT_TRUE(group.Join(Hello(1), kStart).ok());
  EXPECT_TRUE(group.complete());
  EXPECT_EQ(group.MissingRanks(), "");
  EXPECT_TRUE(group.status().ok());
}

TEST(GroupMembership, OfOneRankIsCompleteAtOnce) {
  GroupMembership group({.world_size = 1, .num_kv_blocks_max = 7});
  EXPECT_TRUE(group.complete());
  EXPECT_EQ(group.num_kv_blocks(), 7);
}

TEST(GroupMembership, HoldsAsManyBlocksAsItsSmallestRank) {
  GroupMembership group(ThreeRanks());
  EXPECT_EQ(group.num_kv_blocks(), 500);
  ASSERT_TRUE(group.Join(Hello(2), kStart).ok());
  EXPECT_EQ(group.num_kv_blocks(), 400);
  ASSERT_TRUE(group.Join(Hello(1), kStart).ok());
  EXPECT_EQ(group.num_kv_blocks(), 300);
}

TEST(GroupMembership, RefusesAnotherNumericsIdNamingBoth) {
  GroupMembership group(ThreeRanks());
  RankHello hello = Hello(1);
  hello.numerics_id = "bb";
  EXPECT_EQ(group.Join(hello, kStart),
            absl::FailedPreconditionError("rank 1 has numerics_id \"bb\", the leader \"aa\": other weights, options, "
                                          "build or processor"));
  EXPECT_TRUE(group.status().ok());
  EXPECT_TRUE(group.Join(Hello(1), kStart).ok());
}

TEST(GroupMembership, RefusesRanksOfAnotherWorldSizeNamingBoth) {
  GroupMembership group(ThreeRanks());
  RankHello hello = Hello(1);
  hello.world_size = 4;
  EXPECT_EQ(group.Join(hello, kStart),
            absl::FailedPreconditionError("rank 1 is of a group of 4 ranks, this group has 3"));
}

TEST(GroupMembership, RefusesRanksOutOfRange) {
  GroupMembership group(ThreeRanks());
  for (const int rank : {-1, 0, 3}) {
    EXPECT_EQ(group.Join(Hello(rank), kStart).code(), absl::StatusCode::kInvalidArgument) << rank;
  }
}

TEST(GroupMembership, RefusesARankWithoutRoomForOneBlock) {
  GroupMembership group(ThreeRanks());
  RankHello hello = Hello(1);
  hello.num_kv_blocks_max = 0;
  EXPECT_EQ(group.Join(hello, kStart), absl::InvalidArgumentError("rank 1 could hold 0 KV blocks"));
}

TEST(GroupMembership, RefusesASecondProcessForARankThatIsIn) {
  GroupMembership group(ThreeRanks());
  ASSERT_TRUE(group.Join(Hello(1), kStart).ok());
  EXPECT_EQ(group.Join(Hello(1), kStart), absl::AlreadyExistsError("rank 1 is already in the group"));
  EXPECT_FALSE(group.complete());
}

TEST(GroupMembership, BreaksWhenARankLeavesAndNobodyJoinsAfter) {
  GroupMembership group(ThreeRanks());
  ASSERT_TRUE(group.Join(Hello(1), kStart).ok());
  group.Leave(1, "its stream ended");
  EXPECT_TRUE(group.broken());
  EXPECT_EQ(group.status(), absl::UnavailableError("rank 1 is lost: its stream ended"));
  EXPECT_EQ(group.Join(Hello(1), kStart),
            absl::UnavailableError("the group's epoch has ended: rank 1 is lost: its stream ended"));
}

TEST(GroupMembership, IgnoresTheLeavingOfWhoWasNeverIn) {
  GroupMembership group(ThreeRanks());
  group.Leave(1, "its stream ended");
  group.Leave(7, "its stream ended");
  EXPECT_FALSE(group.broken());
}

TEST(GroupMembership, KeepsTheFirstReason) {
  GroupMembership group(ThreeRanks());
  group.Break("first");
  group.Break("second");
  EXPECT_EQ(group.status(), absl::UnavailableError("first"));
}

TEST(GroupMembership, BreaksWhenARankIsSilentForTooLong) {
  GroupMembership group(ThreeRanks());
  ASSERT_TRUE(group.Join(Hello(1), kStart).ok());
  ASSERT_TRUE(group.Join(Hello(2), kStart).ok());
  group.Progress(1, {.last_step = 5}, kStart + std::chrono::milliseconds(1500));
  group.Progress(2, {.last_step = 5}, kStart + std::chrono::milliseconds(100));
  group.Tick(kStart + std::chrono::milliseconds(2100));
  EXPECT_FALSE(group.broken());
  group.Tick(kStart + std::chrono::milliseconds(2101));
  EXPECT_EQ(group.status(), absl::UnavailableError("rank 2 is lost: silent for more than 2000 ms"));
}

// Ticks as a watching thread does, until `end` is reached.
void TickUntil(GroupMembership& group, TimePoint begin, TimePoint end) {
  for (TimePoint now = begin; now <= end; now += std::chrono::milliseconds(100)) group.Tick(now);
}

TEST(GroupMembership, BreaksWhenAStepOfARankOrOfTheLeaderStaysUnderWay) {
  for (const int stuck : {0, 1}) {
    GroupMembership group(ThreeRanks());
    ASSERT_TRUE(group.Join(Hello(1), kStart).ok());
    ASSERT_TRUE(group.Join(Hello(2), kStart).ok());
    const auto at = [](int ms) { return kStart + std::chrono::milliseconds(ms); };
    for (int ms = 0; ms <= 3000; ms += 100) {
      for (int rank = 0; rank < 3; ++rank) {
        // The others are idle, which is not to be stuck.
        const bool is_stuck = rank == stuck && ms >= 500;
        group.Progress(rank, {.last_step = 7, .step_under_way = is_stuck ? 8u : 0u}, at(ms));
      }
      group.Tick(at(ms));
      EXPECT_EQ(group.broken(), ms > 500 + 2000) << ms;
    }
    EXPECT_EQ(group.status(),
              absl::UnavailableError("rank " + std::to_string(stuck) + " is lost: in step 8 for more than 2000 ms"));
  }
}

TEST(GroupMembership, LetsStepsOverlapAsLongAsTheyAdvance) {
  GroupMembership group(ThreeRanks());
  ASSERT_TRUE(group.Join(Hello(1), kStart).ok());
  for (uint64_t step = 1; step < 100; ++step) {
    const TimePoint now = kStart + step * std::chrono::milliseconds(100);
    group.Progress(1, {.last_step = step / 15, .step_under_way = step / 15 + 1}, now);
    group.Tick(now);
  }
  EXPECT_FALSE(group.broken());
}

TEST(GroupMembership, JudgesNobodyByATimeInWhichItDidNotLook) {
  GroupMembership group(ThreeRanks());
  ASSERT_TRUE(group.Join(Hello(1), kStart).ok());
  group.Tick(kStart);
  const TimePoint back = kStart + std::chrono::seconds(30);
  group.Tick(back);
  EXPECT_FALSE(group.broken());
  TickUntil(group, back, back + std::chrono::milliseconds(2000));
  EXPECT_FALSE(group.broken());
  group.Tick(back + std::chrono::milliseconds(2100));
  EXPECT_TRUE(group.broken());
}

TEST(GroupMembership, RemembersTheGreatestStepARankTold) {
  GroupMembership group(ThreeRanks());
  group.Progress(1, {.last_step = 3}, kStart);  // not in
  EXPECT_EQ(group.last_step(1), 0);
  ASSERT_TRUE(group.Join(Hello(1), kStart).ok());
  group.Progress(1, {.last_step = 8}, kStart);
  group.Progress(1, {.last_step = 6}, kStart);
  group.Progress(-1, {.last_step = 6}, kStart);
  group.Progress(3, {.last_step = 6}, kStart);
  EXPECT_EQ(group.last_step(1), 8);
}

}  // namespace
}  // namespace outrider
