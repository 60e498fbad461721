#include "router/prefix_affinity_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "router/testing/test_random.h"

namespace outrider::router {
namespace {

ClusterSnapshot Cluster(const std::vector<int64_t>& loads) {
  ClusterSnapshot cluster;
  for (size_t i = 0; i < loads.size(); ++i) {
    cluster.groups.push_back({.id = std::string(1, static_cast<char>('a' + i)),
                              .model = {"m", "t"},
                              .numerics_id = "n",
                              .max_model_len = 10'000,
                              .max_sequences = 8,
                              .serving = true,
                              .connected = true,
                              .life = static_cast<uint32_t>(i + 1),
                              .own = {.num_lanes = loads[i] > 0 ? 1 : 0, .num_tokens = loads[i]}});
  }
  cluster.Rebuild();
  return cluster;
}

RoutingNeeds Needs(std::vector<uint64_t> chain) {
  return {.model = {"m", "t"}, .num_lanes = 1, .num_context_tokens = 50, .prefix_chain = std::move(chain)};
}

constexpr int64_t kBlock = kPrefixBlockTokens;

TEST(PrefixAffinityPolicy, GoesWhereTheLongestBeginningIsWithinTheBound) {
  PrefixIndex index;
  const PrefixAffinityPolicy policy(&index, /*load_tokens=*/100);
  index.Learn({{1}}, 1);
  index.Learn({{1, 2, 3}}, 2);
  EXPECT_EQ(policy.Choose(Cluster({0, 100, 0}), Needs({1, 2, 3, 4})).group_index, 1);
  EXPECT_EQ(policy.Choose(Cluster({50, 101, 0}), Needs({1, 2, 3, 4})).group_index, 0);  // who holds less of it
  EXPECT_EQ(policy.Choose(Cluster({101, 101, 0}), Needs({1, 2, 3, 4})).group_index, 2);
  EXPECT_EQ(policy.Choose(Cluster({50, 50, 0}), Needs({9})).group_index, 2);
  EXPECT_EQ(policy.Choose(Cluster({50, 50, 0}), Needs({})).group_index, 2);
}

TEST(PrefixAffinityPolicy, PaysNoMoreLoadThanTheBeginningSpares) {
  PrefixIndex index;
  const PrefixAffinityPolicy policy(&index, /*load_tokens=*/1000);
  index.Learn({{1}}, 2);
  EXPECT_EQ(policy.Choose(Cluster({0, kBlock}), Needs({1})).group_index, 1);
  EXPECT_EQ(policy.Choose(Cluster({0, kBlock + 1}), Needs({1})).group_index, 0);
}

TEST(PrefixAffinityPolicy, TakesTheLeastLoadedOfThoseThatHoldEquallyMuch) {
  PrefixIndex index;
  const PrefixAffinityPolicy policy(&index, /*load_tokens=*/1000);
  for (const uint32_t life : {1, 2, 3}) index.Learn({{1, 2}}, life);
  EXPECT_EQ(policy.Choose(Cluster({30, 20, 25, 0}), Needs({1, 2})).group_index, 1);
}

TEST(PrefixAffinityPolicy, ForgetsAPastLifeAndWhoCanNotTakeIt) {
  PrefixIndex index;
  const PrefixAffinityPolicy policy(&index, /*load_tokens=*/1000);
  index.Learn({{1}}, 2);
  ClusterSnapshot cluster = Cluster({0, 0});
  EXPECT_EQ(policy.Choose(cluster, Needs({1})).group_index, 1);
  cluster.groups[1].held = true;
  cluster.Rebuild();
  EXPECT_EQ(policy.Choose(cluster, Needs({1})).group_index, 0);
  cluster.groups[1].held = false;
  cluster.groups[1].life = 3;  // it restarted, and its cache is empty
  cluster.Rebuild();
  EXPECT_EQ(policy.Choose(cluster, Needs({1})).group_index, 0);
}

TEST(PrefixAffinityPolicy, IsTheLeastLoadedWhenItIsOff) {
  PrefixIndex index;
  const PrefixAffinityPolicy policy(&index, /*load_tokens=*/0);
  index.Learn({{1}}, 2);
  EXPECT_EQ(policy.Choose(Cluster({0, 1}), Needs({1})).group_index, 0);
}

// Against a search over everything: of all groups within the bound, one of the longest beginning.
TEST(PrefixAffinityPolicy, AgreesWithASearchOverEverything) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 2000; ++round) {
    const int num_groups = 1 + static_cast<int>(random() % 4);
    std::vector<int64_t> loads, held(num_groups, 0);
    for (int i = 0; i < num_groups; ++i) loads.push_back(static_cast<int64_t>(random() % 400));
    const std::vector<uint64_t> chain = {11, 12, 13, 14};
    PrefixIndex index;
    for (int i = 0; i < num_groups; ++i) {
      held[i] = static_cast<int64_t>(random() % 5);
      index.Learn(absl::MakeConstSpan(chain).subspan(0, held[i]), static_cast<uint32_t>(i + 1));
    }
    const int64_t load_tokens = static_cast<int64_t>(random() % 300);
    const int64_t least = *std::min_element(loads.begin(), loads.end());
    int64_t longest = 0;
    for (int i = 0; i < num_groups; ++i) {
      if (load_tokens > 0 && loads[i] <= least + std::min(load_tokens, held[i] * kBlock)) {
        longest = std::max(longest, held[i]);
      }
    }
    const int chosen = PrefixAffinityPolicy(&index, load_tokens).Choose(Cluster(loads), Needs(chain)).group_index;
    ASSERT_GE(chosen, 0);
    if (longest > 0) {
      EXPECT_EQ(held[chosen], longest) << "round " << round;
    } else {
      EXPECT_EQ(loads[chosen], least) << "round " << round;
    }
  }
}

}  // namespace
}  // namespace outrider::router
