#include "router/draft_pairing_policy.h"

#include <gtest/gtest.h>

namespace outrider::router {
namespace {

ClusterSnapshot Cluster(const std::vector<std::string>& groups, const std::vector<std::string>& workers,
                        const std::string& tokenizer = "t") {
  ClusterSnapshot cluster;
  for (const std::string& id : groups) cluster.groups.push_back({.id = id, .model = {"m", tokenizer}});
  for (const std::string& id : workers) cluster.draft_workers.push_back({.id = id, .tokenizer_fingerprint = tokenizer});
  return cluster;
}

TEST(DraftPairing, SpreadsGroupsEvenlyOverDraftWorkers) {
  const DraftPairing pairing = PairDraftWorkers(Cluster({"a", "b", "c", "d"}, {"x", "y"}), {}, 1);
  EXPECT_EQ(pairing, (DraftPairing{{"a", {"x"}}, {"b", {"y"}}, {"c", {"x"}}, {"d", {"y"}}}));
}

TEST(DraftPairing, GivesAGroupDifferentWorkersAndNoMoreThanThereAre) {
  const DraftPairing pairing = PairDraftWorkers(Cluster({"a"}, {"x", "y"}), {}, 3);
  EXPECT_EQ(pairing, (DraftPairing{{"a", {"x", "y"}}}));
}

TEST(DraftPairing, PairsOnlyEqualTokenizers) {
  ClusterSnapshot cluster = Cluster({"a"}, {"x", "y"});
  cluster.draft_workers[0].tokenizer_fingerprint = "another";
  EXPECT_EQ(PairDraftWorkers(cluster, {}, 2), (DraftPairing{{"a", {"y"}}}));
}

TEST(DraftPairing, LeavesOutDrainingWorkers) {
  ClusterSnapshot cluster = Cluster({"a"}, {"x", "y"});
  cluster.draft_workers[0].draining = true;
  EXPECT_EQ(PairDraftWorkers(cluster, {{"a", {"x"}}}, 1), (DraftPairing{{"a", {"y"}}}));
}

TEST(DraftPairing, KeepsPairsWhenAWorkerOfOthersIsLost) {
  const DraftPairing current{{"a", {"z"}}, {"b", {"x"}}, {"c", {"y"}}};
  const DraftPairing pairing = PairDraftWorkers(Cluster({"a", "b", "c"}, {"x", "z"}), current, 1);
  EXPECT_EQ(pairing.at("a"), std::vector<std::string>{"z"});
  EXPECT_EQ(pairing.at("b"), std::vector<std::string>{"x"});
}

TEST(DraftPairing, MovesOnlyWhatANewWorkerShouldHave) {
  const DraftPairing current{{"a", {"x"}}, {"b", {"x"}}, {"c", {"x"}}, {"d", {"x"}}};
  const DraftPairing pairing = PairDraftWorkers(Cluster({"a", "b", "c", "d"}, {"x", "y"}), current, 1);
  EXPECT_EQ(pairing, (DraftPairing{{"a", {"x"}}, {"b", {"x"}}, {"c", {"y"}}, {"d", {"y"}}}));
  EXPECT_EQ(PairDraftWorkers(Cluster({"a", "b", "c", "d"}, {"x", "y"}), pairing, 1), pairing);
}

TEST(DraftPairing, IsEmptyWithoutDraftWorkers) {
  EXPECT_TRUE(PairDraftWorkers(Cluster({"a"}, {}), {{"a", {"x"}}}, 1).empty());
}

}  // namespace
}  // namespace outrider::router
