#include "router/worker_registry.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace outrider::router {
namespace {

using std::chrono::milliseconds;
constexpr TimePoint kStart{};

GroupReport Group(const std::string& id, uint64_t incarnation = 1) {
  return {.who = {.id = id, .incarnation = incarnation, .address = absl::StrCat("host:", incarnation)},
          .model = {"model-a", "tokenizer-a"},
          .numerics_id = "n",
          .max_model_len = 100,
          .max_sequences = 4,
          .serving = true};
}

DraftWorkerReport Draft(const std::string& id, uint64_t incarnation = 1) {
  return {.who = {.id = id, .incarnation = incarnation, .address = "host:9"},
          .model = "draft-a",
          .tokenizer_fingerprint = "tokenizer-a",
          .max_sequences = 4};
}

WorkerRegistry Make() { return WorkerRegistry({.worker_timeout = milliseconds(1000), .draft_workers_per_group = 1}); }

TEST(WorkerRegistry, TellsNewRestartedAndKnownWorkersApart) {
  WorkerRegistry registry = Make();
  EXPECT_EQ(*registry.Heartbeat(Group("a"), kStart), HeartbeatNews::kJoined);
  EXPECT_EQ(*registry.Heartbeat(Group("a"), kStart), HeartbeatNews::kNone);
  EXPECT_EQ(*registry.Heartbeat(Group("a", 2), kStart), HeartbeatNews::kRestarted);
  EXPECT_EQ(*registry.Heartbeat(Draft("a"), kStart), HeartbeatNews::kJoined);
  EXPECT_EQ(*registry.Heartbeat(Draft("a", 7), kStart), HeartbeatNews::kRestarted);
}

TEST(WorkerRegistry, RefusesOlderIncarnationsAlsoOfWorkersThatAreGone) {
  WorkerRegistry registry = Make();
  ASSERT_TRUE(registry.Heartbeat(Group("a", 5), kStart).ok());
  EXPECT_EQ(registry.Heartbeat(Group("a", 4), kStart).status().code(), absl::StatusCode::kFailedPrecondition);
  registry.Expire(kStart);
  registry.Expire(kStart + milliseconds(400));
  registry.Expire(kStart + milliseconds(800));
  ASSERT_EQ(registry.Expire(kStart + milliseconds(1000)).size(), 1);
  EXPECT_EQ(registry.FindGroup("a", 5), nullptr);
  EXPECT_EQ(registry.Heartbeat(Group("a", 4), kStart).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*registry.Heartbeat(Group("a", 5), kStart), HeartbeatNews::kJoined);
}

TEST(WorkerRegistry, KnowsADeathFromSilence) {
  WorkerRegistry registry = Make();
  ASSERT_TRUE(registry.Heartbeat(Group("a", 1), kStart).ok());
  ASSERT_TRUE(registry.Heartbeat(Group("b", 1), kStart).ok());
  for (int ms = 0; ms <= 1000; ms += 250) registry.Expire(kStart + milliseconds(ms));
  const auto fate = [&](const std::string& id, uint64_t incarnation) {
    return registry.FateOf({.group_id = id, .incarnation = incarnation});
  };
  EXPECT_EQ(fate("a", 1), GroupFate::kSilent);
  registry.NoteGone("a", 1);
  registry.NoteGone("b", 2);  // not the life that was heard of
  EXPECT_EQ(fate("a", 1), GroupFate::kDied);
  EXPECT_EQ(fate("b", 1), GroupFate::kSilent);
  // It was alive after all.
  ASSERT_TRUE(registry.Heartbeat(Group("a", 1), kStart).ok());
  EXPECT_EQ(fate("a", 1), GroupFate::kUnknown);
  // Another life began.
  ASSERT_TRUE(registry.Heartbeat(Group("b", 2), kStart).ok());
  EXPECT_EQ(fate("b", 1), GroupFate::kDied);
}

TEST(WorkerRegistry, ForgetsTheLoadAndTheStreamOfAPastIncarnation) {
  WorkerRegistry registry = Make();
  ASSERT_TRUE(registry.Heartbeat(Group("a", 1), kStart).ok());
  registry.SetConnected("a", 1, true);
  registry.Charge("a", 1, {.num_lanes = 2, .num_tokens = 50});
  ASSERT_TRUE(registry.Heartbeat(Group("a", 2), kStart).ok());
  registry.Release("a", 1, {.num_lanes = 2, .num_tokens = 50});
  registry.SetConnected("a", 1, true);
  const GroupView* group = registry.FindGroup("a", 2);
  ASSERT_NE(group, nullptr);
  EXPECT_EQ(group->own.num_lanes, 0);
  EXPECT_EQ(group->own.num_tokens, 0);
  EXPECT_FALSE(group->connected);
}

TEST(WorkerRegistry, CountsOnlyWhatOtherRoutersBroughtAsForeign) {
  WorkerRegistry registry = Make();
  ASSERT_TRUE(registry.Heartbeat(Group("a"), kStart).ok());
  registry.Charge("a", 1, {.num_lanes = 2, .num_tokens = 50});
  GroupReport report = Group("a");
  report.load = {.num_lanes = 3, .num_tokens = 40};
  ASSERT_TRUE(registry.Heartbeat(report, kStart).ok());
  EXPECT_EQ(registry.FindGroup("a", 1)->num_lanes(), 3);
  EXPECT_EQ(registry.FindGroup("a", 1)->num_tokens(), 50);
}

TEST(WorkerRegistry, ShowsWhatWorkersSayOfThemselves) {
  WorkerRegistry registry = Make();
  GroupReport group = Group("a");
  group.usage = {.sequences_running = 3, .kv_cache_used_ratio = 0.5f, .num_ranks = 2};
  group.usage.totals.num_hidden_rounds = 7;
  DraftWorkerReport draft = Draft("d");
  draft.num_sequences = 2;
  draft.num_queued_tokens = 40;
  draft.tokens_per_second = 100;
  ASSERT_TRUE(registry.Heartbeat(group, kStart).ok());
  ASSERT_TRUE(registry.Heartbeat(draft, kStart).ok());
  EXPECT_TRUE(registry.pairing().empty()) << "no group was told yet";
  ASSERT_EQ(registry.DraftWorkersOf("a").size(), 1u);
  EXPECT_EQ(registry.pairing(), (DraftPairing{{"a", {"d"}}}));
  const GroupUsage& usage = registry.snapshot().groups[0].usage;
  EXPECT_EQ(usage.sequences_running, 3);
  EXPECT_EQ(usage.num_ranks, 2);
  EXPECT_EQ(usage.totals.num_hidden_rounds, 7);
  const DraftWorkerView& worker = registry.snapshot().draft_workers[0];
  EXPECT_EQ(worker.num_sequences, 2);
  EXPECT_EQ(worker.num_queued_tokens, 40);
  EXPECT_EQ(worker.tokens_per_second, 100);
}

TEST(WorkerRegistry, HoldsAGroupUntilItsNextHeartbeat) {
  WorkerRegistry registry = Make();
  ASSERT_TRUE(registry.Heartbeat(Group("a"), kStart).ok());
  registry.Hold("a", 1);
  EXPECT_TRUE(registry.FindGroup("a", 1)->held);
  ASSERT_TRUE(registry.Heartbeat(Group("a"), kStart).ok());
  EXPECT_FALSE(registry.FindGroup("a", 1)->held);
}

TEST(WorkerRegistry, RefusesAnotherModelWhileOneIsServedAndNamesBoth) {
  WorkerRegistry registry = Make();
  ASSERT_TRUE(registry.Heartbeat(Group("a"), kStart).ok());
  GroupReport other = Group("b");
  other.model = {"model-b", "tokenizer-b"};
  const absl::Status refused = registry.Heartbeat(other, kStart).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("model-a"), absl::string_view::npos);
  EXPECT_NE(refused.message().find("model-b"), absl::string_view::npos);
  // The only group may come back with another model.
  other.who.id = "a";
  other.who.incarnation = 2;
  EXPECT_TRUE(registry.Heartbeat(other, kStart).ok());
  EXPECT_EQ(registry.model(), (ModelKey{"model-b", "tokenizer-b"}));
}

TEST(WorkerRegistry, RefusesDraftWorkersWithAnotherTokenizerAndNamesBoth) {
  WorkerRegistry registry = Make();
  ASSERT_TRUE(registry.Heartbeat(Group("a"), kStart).ok());
  DraftWorkerReport draft = Draft("x");
  draft.tokenizer_fingerprint = "tokenizer-x";
  const absl::Status refused = registry.Heartbeat(draft, kStart).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("tokenizer-x"), absl::string_view::npos);
  EXPECT_NE(refused.message().find("tokenizer-a"), absl::string_view::npos);
}

TEST(WorkerRegistry, PairsDraftWorkersAsTheyComeAndGo) {
  WorkerRegistry registry = Make();
  ASSERT_TRUE(registry.Heartbeat(Draft("x"), kStart).ok());
  ASSERT_TRUE(registry.Heartbeat(Group("a"), kStart).ok());
  ASSERT_EQ(registry.DraftWorkersOf("a").size(), 1);
  EXPECT_EQ(registry.DraftWorkersOf("a")[0]->id, "x");
  EXPECT_EQ(registry.DraftWorkersOf("a")[0]->incarnation, 1);
  ASSERT_TRUE(registry.Heartbeat(Draft("x", 2), kStart).ok());
  EXPECT_EQ(registry.DraftWorkersOf("a")[0]->incarnation, 2);
  for (int ms = 0; ms < 1000; ms += 100) {
    ASSERT_TRUE(registry.Heartbeat(Group("a"), kStart + milliseconds(ms)).ok());
    EXPECT_TRUE(registry.Expire(kStart + milliseconds(ms)).empty());
  }
  ASSERT_EQ(registry.Expire(kStart + milliseconds(1000)).size(), 1);
  EXPECT_TRUE(registry.DraftWorkersOf("a").empty());
}

TEST(WorkerRegistry, PairsByWhatGroupsAndDraftWorkersMeasureButSeldomMoves) {
  WorkerRegistry registry = Make();
  ASSERT_TRUE(registry.Heartbeat(Draft("x"), kStart).ok());
  ASSERT_TRUE(registry.Heartbeat(Draft("y"), kStart).ok());
  ASSERT_TRUE(registry.Heartbeat(Group("a"), kStart).ok());
  ASSERT_EQ(registry.DraftWorkersOf("a")[0]->id, "x");
  GroupReport report = Group("a");
  report.draft_links = {{.worker_id = "x", .incarnation = 1, .round_trip_ms = 80}};
  // Not before it is time to look again.
  ASSERT_TRUE(registry.Heartbeat(report, kStart + milliseconds(500)).ok());
  EXPECT_EQ(registry.DraftWorkersOf("a")[0]->id, "x");
  ASSERT_TRUE(registry.Heartbeat(report, kStart + kPairingInterval).ok());
  EXPECT_EQ(registry.DraftWorkersOf("a")[0]->id, "y");
  // What it measured of x is remembered, so that it does not go back and forth.
  report.draft_links = {{.worker_id = "y", .incarnation = 1, .round_trip_ms = 20}};
  for (int i = 2; i < 5; ++i) {
    ASSERT_TRUE(registry.Heartbeat(report, kStart + i * kPairingInterval).ok());
    EXPECT_EQ(registry.DraftWorkersOf("a")[0]->id, "y");
  }
  // A queue that lasts moves it, one of a moment does not.
  DraftWorkerReport busy = Draft("y");
  busy.num_queued_tokens = 100;
  busy.tokens_per_second = 500;
  ASSERT_TRUE(registry.Heartbeat(busy, kStart).ok());
  ASSERT_TRUE(registry.Heartbeat(report, kStart + 5 * kPairingInterval).ok());
  EXPECT_EQ(registry.DraftWorkersOf("a")[0]->id, "y");
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(registry.Heartbeat(busy, kStart).ok());
  ASSERT_TRUE(registry.Heartbeat(report, kStart + 6 * kPairingInterval).ok());
  EXPECT_EQ(registry.DraftWorkersOf("a")[0]->id, "x");
}

TEST(WorkerRegistry, RefusesHeartbeatsThatSayNothingUsable) {
  WorkerRegistry registry = Make();
  const auto code = [&](GroupReport report) { return registry.Heartbeat(report, kStart).status().code(); };
  GroupReport report = Group("");
  EXPECT_EQ(code(report), absl::StatusCode::kInvalidArgument);
  report = Group(std::string(kMaxNameBytes + 1, 'a'));
  EXPECT_EQ(code(report), absl::StatusCode::kInvalidArgument);
  report = Group("a");
  report.who.address.clear();
  EXPECT_EQ(code(report), absl::StatusCode::kInvalidArgument);
  report = Group("a");
  report.max_sequences = 0;
  EXPECT_EQ(code(report), absl::StatusCode::kInvalidArgument);
  report = Group("a");
  report.numerics_id.clear();
  EXPECT_EQ(code(report), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(registry.snapshot().groups.empty());
}

TEST(WorkerRegistry, TakesNoMoreWorkersThanItsBound) {
  WorkerRegistry registry = Make();
  for (size_t i = 0; i < kMaxWorkers; ++i) ASSERT_TRUE(registry.Heartbeat(Group(absl::StrCat(i)), kStart).ok());
  EXPECT_EQ(registry.Heartbeat(Group("one more"), kStart).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(*registry.Heartbeat(Group("7"), kStart), HeartbeatNews::kNone);
}

}  // namespace
}  // namespace outrider::router
