#include "router/cluster_load.h"

#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "base/version.h"

namespace outrider::router {
namespace {

GroupView Group(const std::string& id) {
  return {.id = id,
          .address = "10.0.0.7:9000",
          .numerics_id = "n1",
          .epoch = 3,
          .max_sequences = 16,
          .serving = true,
          .connected = true};
}

DraftWorkerView Draft(const std::string& id) {
  return {.id = id, .address = "10.0.0.8:9000", .model = "small", .max_sequences = 8};
}

TEST(ClusterLoad, TellsOfACompleteCluster) {
  GroupView group = Group("g0");
  group.own.num_tokens = 100;
  group.foreign.num_tokens = 20;
  group.usage = {.sequences_running = 3,
                 .sequences_waiting = 1,
                 .kv_cache_used_ratio = 0.25f,
                 .block_size = 16,
                 .num_kv_blocks = 512,
                 .num_ranks = 2};
  group.usage.totals.num_rounds = 10;
  group.usage.totals.num_hidden_rounds = 9;
  group.usage.totals.num_committed_tokens = 31;
  group.usage.totals.num_preemptions = 2;
  group.usage.totals.draft_tokens = {10, 8, 0};
  group.usage.totals.accepted_tokens = {8, 0, 0};
  DraftWorkerView draft = Draft("d0");
  draft.num_sequences = 2;
  draft.num_queued_tokens = 5;
  draft.tokens_per_second = 812.5;
  draft.queue_ms = 1.5;
  const v1::ClusterLoad load = ToClusterLoad({.model = "m",
                                              .max_model_len = 2048,
                                              .num_requests_open = 7,
                                              .traffic = {.num_prompt_tokens = 12, .num_output_tokens = 31}},
                                             {.groups = {group},
                                              .draft_workers = {draft},
                                              .num_requests_waiting = 4,
                                              .num_tokens_waiting = 400,
                                              .uptime = std::chrono::milliseconds(1500)});
  v1::ClusterLoad expected;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(R"(
    model: "m" max_model_len: 2048 serving: true
    router { uptime_seconds: 1.5 requests_open: 7 requests_waiting: 4 tokens_waiting: 400
             prompt_tokens_total: 12 output_tokens_total: 31 }
    groups { id: "g0" state: WORKER_STATE_SERVING epoch: 3 ranks: 2 numerics_id: "n1" sequences_running: 3
             sequences_waiting: 1 max_sequences: 16 outstanding_tokens: 120 kv_cache_used_ratio: 0.25 kv_blocks: 512
             block_size: 16 committed_tokens_total: 31 preemptions_total: 2 rounds_total: 10 hidden_rounds_total: 9
             draft_tokens_by_position: [10, 8] accepted_tokens_by_position: [8, 0] }
    draft_workers { id: "d0" state: WORKER_STATE_SERVING model: "small" sequences: 2 max_sequences: 8
                    queued_tokens: 5 tokens_per_second: 812.5 queue_ms: 1.5 })",
                                                            &expected));
  expected.set_version(kProgramVersion);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(load, expected)) << load.DebugString();
}

TEST(ClusterLoad, SaysWhatIsMissing) {
  const v1::ClusterLoad load = ToClusterLoad({.why_not_serving = "no target group has registered"}, {});
  EXPECT_FALSE(load.serving());
  EXPECT_EQ(load.status(), "no target group has registered");
  EXPECT_EQ(load.groups_size() + load.draft_workers_size(), 0);
}

TEST(ClusterLoad, NamesTheStateThatMattersMost) {
  GroupView group = Group("a");
  const auto state = [&] { return ToClusterLoad({}, {.groups = {group}}).groups(0).state(); };
  EXPECT_EQ(state(), v1::WORKER_STATE_SERVING);
  group.held = true;
  EXPECT_EQ(state(), v1::WORKER_STATE_HELD);
  group.suspect = true;
  EXPECT_EQ(state(), v1::WORKER_STATE_SUSPECT);
  group.connected = false;
  EXPECT_EQ(state(), v1::WORKER_STATE_UNREACHABLE);
  group.serving = false;
  EXPECT_EQ(state(), v1::WORKER_STATE_NOT_SERVING);
  group.draining = true;
  EXPECT_EQ(state(), v1::WORKER_STATE_DRAINING);
  DraftWorkerView draft = Draft("d");
  draft.draining = true;
  EXPECT_EQ(ToClusterLoad({}, {.draft_workers = {draft}}).draft_workers(0).state(), v1::WORKER_STATE_DRAINING);
}

TEST(ClusterLoad, JoinsWhatTheRouterWantsWithWhatTheGroupHas) {
  GroupView group = Group("a");
  group.draft_links = {{.worker_id = "old", .round_trip_ms = 2}, {.worker_id = "new", .round_trip_ms = 0.5}};
  const v1::ClusterLoad load =
      ToClusterLoad({}, {.groups = {group}, .pairing = {{"a", {"new", "next"}}, {"b", {"old"}}}});
  v1::GroupStatus expected;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(R"(
    draft_workers { id: "new" paired: true connected: true round_trip_ms: 0.5 }
    draft_workers { id: "next" paired: true }
    draft_workers { id: "old" connected: true round_trip_ms: 2 })",
                                                            &expected));
  v1::GroupStatus partners;
  *partners.mutable_draft_workers() = load.groups(0).draft_workers();
  EXPECT_EQ(partners.DebugString(), expected.DebugString());
}

TEST(ClusterLoad, TellsNoAddresses) {
  const std::string text = ToClusterLoad({}, {.groups = {Group("a")}, .draft_workers = {Draft("d")}}).DebugString();
  EXPECT_EQ(text.find("10.0.0."), std::string::npos) << text;
}

TEST(ClusterLoad, TakesNumbersOfHostileWorkers) {
  GroupView group = Group("a");
  group.usage.num_ranks = -1;
  group.foreign.num_tokens = -5;
  const v1::ClusterLoad load = ToClusterLoad({}, {.groups = {group}});
  EXPECT_EQ(load.groups(0).ranks(), 0u);
  EXPECT_EQ(load.groups(0).outstanding_tokens(), 0u);
}

}  // namespace
}  // namespace outrider::router
