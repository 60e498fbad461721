#include "router/least_loaded_policy.h"

#include <gtest/gtest.h>

namespace outrider::router {
namespace {

GroupView Group(const std::string& id) {
  return {.id = id,
          .model = {"m", "t"},
          .numerics_id = "n",
          .max_model_len = 100,
          .max_sequences = 8,
          .serving = true,
          .connected = true};
}

RoutingNeeds Needs() { return {.model = {"m", "t"}, .num_lanes = 1, .num_context_tokens = 50, .num_tokens = 50}; }

RoutingDecision Choose(ClusterSnapshot& cluster, const RoutingNeeds& needs) {
  cluster.Rebuild();
  return LeastLoadedPolicy().Choose(cluster, needs);
}

TEST(LeastLoadedPolicy, TakesTheGroupWithTheFewestTokensOfAllRouters) {
  ClusterSnapshot cluster{.groups = {Group("a"), Group("b"), Group("c")}};
  cluster.groups[0].own = {.num_lanes = 1, .num_tokens = 10};
  cluster.groups[1].own = {.num_lanes = 1, .num_tokens = 5};
  cluster.groups[2].foreign = {.num_lanes = 1, .num_tokens = 7};
  EXPECT_EQ(Choose(cluster, Needs()).group_index, 1);
}

TEST(LeastLoadedPolicy, GivesTiesToTheLowerId) {
  ClusterSnapshot cluster{.groups = {Group("a"), Group("b")}};
  EXPECT_EQ(Choose(cluster, Needs()).group_index, 0);
  cluster.groups[0].own.num_lanes = 1;
  EXPECT_EQ(Choose(cluster, Needs()).group_index, 1);
}

TEST(LeastLoadedPolicy, PassesOverGroupsThatTakeNothingNew) {
  ClusterSnapshot cluster{.groups = {Group("a"), Group("b"), Group("c"), Group("d"), Group("e")}};
  cluster.groups[0].serving = false;
  cluster.groups[1].draining = true;
  cluster.groups[2].connected = false;
  cluster.groups[3].held = true;
  cluster.groups[4].own.num_tokens = 1000;
  EXPECT_EQ(Choose(cluster, Needs()).group_index, 4);
}

TEST(LeastLoadedPolicy, TakesASuspectOnlyIfNobodyElseCan) {
  ClusterSnapshot cluster{.groups = {Group("a"), Group("b")}};
  cluster.groups[0].suspect = true;
  cluster.groups[1].own.num_tokens = 1000;
  EXPECT_EQ(Choose(cluster, Needs()).group_index, 1);
  cluster.groups[1].serving = false;
  EXPECT_EQ(Choose(cluster, Needs()).group_index, 0);
}

TEST(LeastLoadedPolicy, FillsAGroupToItsLimitAndNoFurther) {
  ClusterSnapshot cluster{.groups = {Group("a")}};
  cluster.groups[0].own.num_lanes = LaneLimit(8) - 1;
  EXPECT_EQ(Choose(cluster, Needs()).group_index, 0);
  cluster.groups[0].foreign.num_lanes = 1;
  const RoutingDecision decision = Choose(cluster, Needs());
  EXPECT_EQ(decision.group_index, -1);
  EXPECT_EQ(decision.refusal, RoutingRefusal::kAllBusy);
}

TEST(LeastLoadedPolicy, GivesAnIdleGroupARequestOfMoreLanesThanItRunsAtOnce) {
  ClusterSnapshot cluster{.groups = {Group("a")}};
  cluster.groups[0].max_sequences = 1;
  RoutingNeeds needs = Needs();
  needs.num_lanes = 16;
  EXPECT_EQ(Choose(cluster, needs).group_index, 0);
  cluster.groups[0].own.num_lanes = 1;
  EXPECT_EQ(Choose(cluster, needs).refusal, RoutingRefusal::kAllBusy);
}

TEST(LeastLoadedPolicy, SaysWhyNobodyCanTakeIt) {
  ClusterSnapshot cluster;
  EXPECT_EQ(Choose(cluster, Needs()).refusal, RoutingRefusal::kNoGroup);
  cluster.groups = {Group("a"), Group("b")};
  cluster.groups[1].serving = false;
  RoutingNeeds needs = Needs();
  needs.numerics_id = "another";
  EXPECT_EQ(Choose(cluster, needs).refusal, RoutingRefusal::kNoneFits);
  needs = Needs();
  needs.num_context_tokens = 101;
  EXPECT_EQ(Choose(cluster, needs).refusal, RoutingRefusal::kNoneFits);
  needs = Needs();
  needs.model.tokenizer_fingerprint = "another";
  EXPECT_EQ(Choose(cluster, needs).refusal, RoutingRefusal::kNoneFits);
  cluster.groups[0].draining = true;
  EXPECT_EQ(Choose(cluster, Needs()).refusal, RoutingRefusal::kNotServing);
}

}  // namespace
}  // namespace outrider::router
