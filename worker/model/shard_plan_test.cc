#include "worker/model/shard_plan.h"

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace outrider {
namespace {

ModelConfig Dimensions(int num_heads, int num_kv_heads, int intermediate_size = 1536, int vocab_size = 49152) {
  ModelConfig config;
  config.num_heads = num_heads;
  config.num_kv_heads = num_kv_heads;
  config.intermediate_size = intermediate_size;
  config.vocab_size = vocab_size;
  return config;
}

void ExpectRange(const IndexRange& range, int64_t first, int64_t end) {
  EXPECT_EQ(range.first, first);
  EXPECT_EQ(range.end, end);
}

TEST(ShardPlan, OneRankHasEverything) {
  const auto plan = PlanShards(Dimensions(9, 3), 1);
  ASSERT_TRUE(plan.ok());
  ExpectRange(plan->ranks[0].heads, 0, 9);
  ExpectRange(plan->ranks[0].kv_heads, 0, 3);
  ExpectRange(plan->ranks[0].intermediate, 0, 1536);
  ExpectRange(plan->ranks[0].vocab, 0, 49152);
}

TEST(ShardPlan, ThreeKvHeadsOverTwoRanksAreTwoAndOne) {
  const auto plan = PlanShards(Dimensions(9, 3), 2);
  ASSERT_TRUE(plan.ok());
  ExpectRange(plan->ranks[0].kv_heads, 0, 2);
  ExpectRange(plan->ranks[0].heads, 0, 6);
  ExpectRange(plan->ranks[1].kv_heads, 2, 3);
  ExpectRange(plan->ranks[1].heads, 6, 9);
  EXPECT_EQ(plan->ToString(),
            "heads 0-6 kv 0-2 intermediate 0-768 vocab 0-24576; heads 6-9 kv 2-3 intermediate 768-1536 vocab "
            "24576-49152");
}

TEST(ShardPlan, MoreRanksThanKvHeadsSplitQueryHeadsWithinAGroup) {
  const auto plan = PlanShards(Dimensions(9, 3), 5);
  ASSERT_TRUE(plan.ok());
  // KV heads 0 and 1 have two ranks each, KV head 2 has one.
  ExpectRange(plan->ranks[0].heads, 0, 2);
  ExpectRange(plan->ranks[1].heads, 2, 3);
  ExpectRange(plan->ranks[1].kv_heads, 0, 1);
  ExpectRange(plan->ranks[2].heads, 3, 5);
  ExpectRange(plan->ranks[3].heads, 5, 6);
  ExpectRange(plan->ranks[3].kv_heads, 1, 2);
  ExpectRange(plan->ranks[4].heads, 6, 9);
  ExpectRange(plan->ranks[4].kv_heads, 2, 3);
}

TEST(ShardPlan, RefusesMoreRanksThanHeadsOrUnits) {
  const auto heads = PlanShards(Dimensions(9, 3), 10);
  EXPECT_EQ(heads.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(heads.status().message(), "10 is more than the model's 9 attention heads"));
  EXPECT_FALSE(PlanShards(Dimensions(9, 3), 0).ok());
  EXPECT_TRUE(absl::StrContains(PlanShards(Dimensions(9, 3, 64), 3).status().message(), "intermediate"));
  EXPECT_TRUE(absl::StrContains(PlanShards(Dimensions(9, 3, 1536, 32), 3).status().message(), "vocabulary"));
}

// Every head, feature and row belongs to exactly one rank, in order, whatever the sizes.
TEST(ShardPlan, PartitionsEverything) {
  for (const auto& [heads, kv] : std::vector<std::pair<int, int>>{{9, 3}, {32, 8}, {8, 8}, {15, 5}, {14, 2}, {7, 1}}) {
    for (int world = 1; world <= heads; ++world) {
      const auto plan = PlanShards(Dimensions(heads, kv, 1000, 1234), world);
      ASSERT_TRUE(plan.ok()) << plan.status();
      ASSERT_EQ(plan->ranks.size(), world);
      RankShard before;
      for (const RankShard& rank : plan->ranks) {
        EXPECT_EQ(rank.heads.first, before.heads.end);
        EXPECT_EQ(rank.intermediate.first, before.intermediate.end);
        EXPECT_EQ(rank.intermediate.first % kIntermediateUnit, 0);
        EXPECT_EQ(rank.vocab.first, before.vocab.end);
        EXPECT_GT(rank.heads.size(), 0);
        EXPECT_GT(rank.intermediate.size(), 0);
        EXPECT_GT(rank.vocab.size(), 0);
        EXPECT_EQ(rank.heads.size() % rank.kv_heads.size(), 0);
        // The rank holds the KV head of each of its query heads.
        const int group = heads / kv;
        EXPECT_EQ(rank.kv_heads.first, rank.heads.first / group);
        EXPECT_EQ(rank.kv_heads.end, (rank.heads.end - 1) / group + 1);
        before = rank;
      }
      EXPECT_EQ(before.heads.end, heads);
      EXPECT_EQ(before.kv_heads.end, kv);
      EXPECT_EQ(before.intermediate.end, 1000);
      EXPECT_EQ(before.vocab.end, 1234);
    }
  }
}

}  // namespace
}  // namespace outrider
