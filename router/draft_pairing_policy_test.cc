#include "router/draft_pairing_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>

namespace outrider::router {
namespace {

constexpr int kAnyMoves = 1000;

ClusterSnapshot Cluster(const std::vector<std::string>& groups, const std::vector<std::string>& workers,
                        const std::string& tokenizer = "t") {
  ClusterSnapshot cluster;
  for (const std::string& id : groups) cluster.groups.push_back({.id = id, .model = {"m", tokenizer}});
  for (const std::string& id : workers) cluster.draft_workers.push_back({.id = id, .tokenizer_fingerprint = tokenizer});
  return cluster;
}

TEST(DraftPairing, SpreadsGroupsEvenlyOverDraftWorkers) {
  const DraftPairing pairing = PairDraftWorkers(Cluster({"a", "b", "c", "d"}, {"x", "y"}), {}, 1, kAnyMoves);
  EXPECT_EQ(pairing, (DraftPairing{{"a", {"x"}}, {"b", {"y"}}, {"c", {"x"}}, {"d", {"y"}}}));
}

TEST(DraftPairing, GivesAGroupDifferentWorkersAndNoMoreThanThereAre) {
  const DraftPairing pairing = PairDraftWorkers(Cluster({"a"}, {"x", "y"}), {}, 3, kAnyMoves);
  EXPECT_EQ(pairing, (DraftPairing{{"a", {"x", "y"}}}));
}

TEST(DraftPairing, PairsOnlyEqualTokenizers) {
  ClusterSnapshot cluster = Cluster({"a"}, {"x", "y"});
  cluster.draft_workers[0].tokenizer_fingerprint = "another";
  EXPECT_EQ(PairDraftWorkers(cluster, {}, 2, kAnyMoves), (DraftPairing{{"a", {"y"}}}));
}

TEST(DraftPairing, LeavesOutDrainingWorkersAlsoWithoutMoves) {
  ClusterSnapshot cluster = Cluster({"a"}, {"x", "y"});
  cluster.draft_workers[0].draining = true;
  EXPECT_EQ(PairDraftWorkers(cluster, {{"a", {"x"}}}, 1, 0), (DraftPairing{{"a", {"y"}}}));
}

TEST(DraftPairing, KeepsPairsWhenAWorkerOfOthersIsLost) {
  const DraftPairing current{{"a", {"z"}}, {"b", {"x"}}, {"c", {"y"}}};
  const DraftPairing pairing = PairDraftWorkers(Cluster({"a", "b", "c"}, {"x", "z"}), current, 1, kAnyMoves);
  EXPECT_EQ(pairing.at("a"), std::vector<std::string>{"z"});
  EXPECT_EQ(pairing.at("b"), std::vector<std::string>{"x"});
}

TEST(DraftPairing, MovesOnlyWhatANewWorkerShouldHave) {
  const DraftPairing current{{"a", {"x"}}, {"b", {"x"}}, {"c", {"x"}}, {"d", {"x"}}};
  const DraftPairing pairing = PairDraftWorkers(Cluster({"a", "b", "c", "d"}, {"x", "y"}), current, 1, kAnyMoves);
  EXPECT_EQ(pairing, (DraftPairing{{"a", {"x"}}, {"b", {"x"}}, {"c", {"y"}}, {"d", {"y"}}}));
  EXPECT_EQ(PairDraftWorkers(Cluster({"a", "b", "c", "d"}, {"x", "y"}), pairing, 1, kAnyMoves), pairing);
}

TEST(DraftPairing, IsEmptyWithoutDraftWorkers) {
  EXPECT_TRUE(PairDraftWorkers(Cluster({"a"}, {}), {{"a", {"x"}}}, 1, kAnyMoves).empty());
}

TEST(DraftPairing, PrefersTheWorkerThatIsNearAndTheOneThatIsIdle) {
  ClusterSnapshot cluster = Cluster({"a"}, {"x", "y"});
  cluster.groups[0].draft_links = {{.worker_id = "x", .round_trip_ms = 30}, {.worker_id = "y", .round_trip_ms = 1}};
  EXPECT_EQ(PairDraftWorkers(cluster, {}, 1, kAnyMoves).at("a"), std::vector<std::string>{"y"});
  cluster.draft_workers[1].queue_ms = 100;
  EXPECT_EQ(PairDraftWorkers(cluster, {}, 1, kAnyMoves).at("a"), std::vector<std::string>{"x"});
}

TEST(DraftPairing, GivesASlowWorkerFewerGroups) {
  ClusterSnapshot cluster = Cluster({"a", "b", "c", "d", "e", "f"}, {"x", "y"});
  cluster.draft_workers[0].queue_ms = kDraftBaseMs;  // twice the cost of the other
  const DraftPairing pairing = PairDraftWorkers(cluster, {}, 1, kAnyMoves);
  EXPECT_EQ(std::count_if(pairing.begin(), pairing.end(), [](const auto& pair) { return pair.second[0] == "x"; }), 2);
}

TEST(DraftPairing, StaysWhereAMoveWouldGainLittle) {
  ClusterSnapshot cluster = Cluster({"a"}, {"x", "y"});
  const DraftPairing current{{"a", {"x"}}};
  cluster.draft_workers[0].queue_ms = 0.25 * kDraftBaseMs;
  EXPECT_EQ(PairDraftWorkers(cluster, current, 1, kAnyMoves), current);
  cluster.draft_workers[0].queue_ms = 0.5 * kDraftBaseMs;
  EXPECT_EQ(PairDraftWorkers(cluster, current, 1, kAnyMoves), (DraftPairing{{"a", {"y"}}}));
  EXPECT_EQ(PairDraftWorkers(cluster, current, 1, 0), current);
}

TEST(DraftPairing, MakesTheMostGainfulMoveFirst) {
  ClusterSnapshot cluster = Cluster({"a", "b", "c"}, {"x", "y", "z"});
  cluster.groups[1].draft_links = {{.worker_id = "y", .round_trip_ms = 500}};
  const DraftPairing current{{"a", {"x"}}, {"b", {"y"}}, {"c", {"x"}}};
  EXPECT_EQ(PairDraftWorkers(cluster, current, 1, 1).at("b"), std::vector<std::string>{"z"});
}

// Whatever the costs: valid, complete, stable.
TEST(DraftPairing, OfRandomClustersIsWholeAndRepeatsItself) {
  const char* text = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 10) : std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 random(seed);
  DraftPairing pairing;
  for (int round = 0; round < 300; ++round) {
    ClusterSnapshot cluster;
    for (const char* id : {"a", "b", "c", "d", "e"}) {
      if (random() % 4 == 0) continue;
      GroupView group{.id = id, .model = {"m", "t"}};
      for (const char* worker : {"w", "x", "y", "z"}) {
        if (random() % 2 == 0) {
          group.draft_links.push_back({.worker_id = worker, .round_trip_ms = static_cast<double>(random() % 100)});
        }
      }
      cluster.groups.push_back(group);
    }
    size_t num_usable = 0;
    for (const char* id : {"w", "x", "y", "z"}) {
      if (random() % 4 == 0) continue;
      cluster.draft_workers.push_back({.id = id,
                                       .tokenizer_fingerprint = "t",
                                       .draining = random() % 5 == 0,
                                       .queue_ms = static_cast<double>(random() % 50)});
      num_usable += !cluster.draft_workers.back().draining;
    }
    const int num_per_group = 1 + static_cast<int>(random() % 3);
    pairing = PairDraftWorkers(cluster, pairing, num_per_group, kAnyMoves);
    ASSERT_EQ(pairing.size(), num_usable == 0 ? 0 : cluster.groups.size());
    for (const auto& [group, workers] : pairing) {
      ASSERT_EQ(workers.size(), std::min<size_t>(num_per_group, num_usable));
      for (const std::string& id : workers) {
        ASSERT_EQ(std::count(workers.begin(), workers.end(), id), 1);
        const auto worker = std::find_if(cluster.draft_workers.begin(), cluster.draft_workers.end(),
                                         [&](const DraftWorkerView& view) { return view.id == id; });
        ASSERT_NE(worker, cluster.draft_workers.end());
        ASSERT_FALSE(worker->draining);
      }
    }
    ASSERT_EQ(PairDraftWorkers(cluster, pairing, num_per_group, kAnyMoves), pairing) << "round " << round;
  }
}

}  // namespace
}  // namespace outrider::router
