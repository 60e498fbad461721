#include "router/dispatch_queue.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "router/retry_after.h"

namespace outrider::router {
namespace {

using std::chrono::milliseconds;
constexpr TimePoint kStart{};

DispatchQueue::Options TestOptions() {
  return {.admission = {.max_queued_requests = 4,
                        .max_queued_tokens = 1000,
                        .queue_timeout = milliseconds(1000),
                        .replay_wait = milliseconds(5000)},
          .registry = {.worker_timeout = milliseconds(3000)}};
}

// Sequences 4, so lanes up to 8.
GroupReport Group(const std::string& id, uint64_t incarnation = 1, const std::string& numerics_id = "n") {
  return {.who = {.id = id, .incarnation = incarnation, .address = "host:1"},
          .model = {.model = "m", .tokenizer_fingerprint = "t"},
          .numerics_id = numerics_id,
          .epoch = 7,
          .max_model_len = 100,
          .max_sequences = 4,
          .serving = true};
}

void Join(DispatchQueue& queue, const GroupReport& report, TimePoint now = kStart) {
  ASSERT_TRUE(queue.Heartbeat(report, now).ok());
  queue.SetConnected(report.who.id, report.who.incarnation, true);
}

RoutingNeeds Needs(int num_lanes = 1, const std::string& numerics_id = "") {
  return {.model = {.model = "m", .tokenizer_fingerprint = "t"},
          .numerics_id = numerics_id,
          .num_lanes = num_lanes,
          .num_context_tokens = 20,
          .num_tokens = 20};
}

RouteRequest New(std::optional<RoutingNeeds> needs, TimePoint now) {
  return {.needs = std::move(needs), .num_tokens = 50, .kind = RouteKind::kNew, .since = now};
}
RouteRequest Replay(RoutingNeeds needs, TimePoint now, std::vector<GroupRef> lost_on = {}) {
  return {.needs = std::move(needs), .kind = RouteKind::kReplay, .since = now, .lost_on = std::move(lost_on)};
}

std::vector<CallId> Started(const DispatchQueue::Decisions& decisions) {
  std::vector<CallId> ids;
  for (const auto& start : decisions.starts) ids.push_back(start.call_id);
  return ids;
}

TEST(DispatchQueue, StartsAtOnceWhereThereIsRoom) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a"));
  DispatchQueue::Decisions decisions;
  queue.Route(1, New(Needs(), kStart), kStart, decisions);
  ASSERT_EQ(decisions.starts.size(), 1);
  EXPECT_EQ(decisions.starts[0].group.group_id, "a");
  EXPECT_EQ(decisions.starts[0].group.epoch, 7);
  EXPECT_EQ(queue.snapshot().groups[0].own.num_tokens, 20);
  queue.Release(decisions.starts[0].group, {.num_lanes = 1, .num_tokens = 20}, std::nullopt, kStart);
  EXPECT_EQ(queue.snapshot().groups[0].own.num_tokens, 0);
}

TEST(DispatchQueue, LetsWaitingCallsGoInOrderOnceThereIsRoom) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a"));
  DispatchQueue::Decisions decisions;
  queue.Route(1, New(Needs(/*num_lanes=*/8), kStart), kStart, decisions);
  queue.Route(2, New(Needs(), kStart), kStart, decisions);
  queue.Route(3, New(Needs(), kStart), kStart, decisions);
  queue.Route(4, Replay(Needs(), kStart), kStart, decisions);
  EXPECT_EQ(Started(decisions), std::vector<CallId>{1});
  EXPECT_EQ(queue.num_requests(), 3);
  DispatchQueue::Decisions turn;
  queue.Release(decisions.starts[0].group, {.num_lanes = 8, .num_tokens = 20}, std::nullopt, kStart);
  EXPECT_TRUE(queue.turn_wanted());
  queue.TakeTurn(kStart, true, turn);
  EXPECT_EQ(Started(turn), (std::vector<CallId>{4, 2, 3}));
  EXPECT_FALSE(queue.turn_wanted());
}

TEST(DispatchQueue, DoesNotLetOneThatNobodyCanTakeHoldUpTheOthers) {
  DispatchQueue queue(TestOptions());
  DispatchQueue::Decisions decisions;
  queue.Route(1, Replay(Needs(1, "other"), kStart), kStart, decisions);
  queue.Route(2, New(Needs(), kStart), kStart, decisions);
  Join(queue, Group("a"));
  queue.TakeTurn(kStart, true, decisions);
  EXPECT_EQ(Started(decisions), std::vector<CallId>{2});
}

TEST(DispatchQueue, PreparesCallsThatCameBeforeTheModel) {
  DispatchQueue queue(TestOptions());
  DispatchQueue::Decisions decisions;
  queue.Route(1, New(std::nullopt, kStart), kStart, decisions);
  queue.Route(2, New(std::nullopt, kStart), kStart, decisions);
  queue.TakeTurn(kStart, /*model_ready=*/false, decisions);
  EXPECT_TRUE(decisions.to_prepare.empty());
  Join(queue, Group("a"));
  queue.TakeTurn(kStart, /*model_ready=*/true, decisions);
  EXPECT_EQ(decisions.to_prepare, (std::vector<CallId>{1, 2}));
  DispatchQueue::Decisions turn;
  queue.OnPrepared(1, absl::InvalidArgumentError("bad"), turn);
  queue.OnPrepared(2, Needs(), turn);
  ASSERT_EQ(turn.refusals.size(), 1);
  EXPECT_EQ(turn.refusals[0].call_id, 1);
  EXPECT_EQ(queue.num_tokens(), 20);
  queue.TakeTurn(kStart, true, turn);
  EXPECT_EQ(Started(turn), std::vector<CallId>{2});
}

TEST(DispatchQueue, RefusesAtItsBoundAndAfterTheTimeout) {
  DispatchQueue queue(TestOptions());
  DispatchQueue::Decisions decisions;
  for (CallId id = 1; id <= 5; ++id) queue.Route(id, New(Needs(), kStart), kStart, decisions);
  ASSERT_EQ(decisions.refusals.size(), 1);
  EXPECT_EQ(decisions.refusals[0].call_id, 5);
  EXPECT_EQ(decisions.refusals[0].status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(queue.Withdraw(2, kStart));
  EXPECT_FALSE(queue.Withdraw(2, kStart));
  DispatchQueue::Decisions turn;
  queue.TakeTurn(*queue.next_turn(), true, turn);
  ASSERT_EQ(turn.refusals.size(), 3);
  EXPECT_EQ(turn.refusals[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(turn.refusals[0].status.message().find("no target group is registered"), absl::string_view::npos);
  EXPECT_EQ(queue.num_requests(), 0);
}

TEST(DispatchQueue, TellsOfLostGroupsAndGivesThemNothing) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a"));
  Join(queue, Group("b"));
  TimePoint now = kStart;
  DispatchQueue::Decisions decisions;
  while (now < kStart + milliseconds(3000)) {
    now += milliseconds(500);
    Join(queue, Group("b"), now);
    queue.TakeTurn(now, true, decisions);
  }
  ASSERT_EQ(decisions.lost.size(), 1);
  EXPECT_EQ(decisions.lost[0].id, "a");
  queue.Route(1, New(Needs(), now), now, decisions);
  EXPECT_EQ(decisions.starts.at(0).group.group_id, "b");
}

TEST(DispatchQueue, GivesNothingToAGroupThatWasHeldUntilItsNextHeartbeat) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a"));
  queue.Hold({.group_id = "a", .incarnation = 1});
  DispatchQueue::Decisions decisions;
  queue.Route(1, New(Needs(), kStart), kStart, decisions);
  EXPECT_TRUE(decisions.starts.empty());
  Join(queue, Group("a"));
  queue.TakeTurn(kStart, true, decisions);
  EXPECT_EQ(Started(decisions), std::vector<CallId>{1});
}

GroupRef Life(const std::string& id, uint64_t incarnation) {
  return {.group_id = id, .incarnation = incarnation, .numerics_id = "n"};
}

TEST(DispatchQueue, QuarantinesARequestThatWasOnTwoGroupsWhenTheyDied) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a", 1));
  Join(queue, Group("b", 1));
  RoutingNeeds needs = Needs();
  needs.fingerprint = 42;
  // a came back in another life; b's stream broke, and what became of it is not known yet.
  Join(queue, Group("a", 2));
  queue.SetConnected("b", 1, false);
  DispatchQueue::Decisions decisions;
  queue.Route(1, Replay(needs, kStart, {Life("a", 1), Life("b", 1)}), kStart, decisions);
  EXPECT_TRUE(decisions.starts.empty());
  EXPECT_TRUE(decisions.refusals.empty());
  Join(queue, Group("b", 2));
  queue.TakeTurn(kStart, true, decisions);
  ASSERT_EQ(decisions.refusals.size(), 1);
  EXPECT_EQ(decisions.refusals[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(decisions.refusals[0].status.message().find("quarantined: it was on 2 target groups when they died (a, b)"),
            absl::string_view::npos)
      << decisions.refusals[0].status;
  EXPECT_FALSE(RetryAfterOf(decisions.refusals[0].status).has_value());
  // Its like is refused at once, for a while; others are not.
  DispatchQueue::Decisions later;
  queue.Route(2, New(needs, kStart), kStart, later);
  ASSERT_EQ(later.refusals.size(), 1);
  EXPECT_FALSE(later.refusals[0].admitted);
  queue.Route(3, New(Needs(), kStart), kStart, later);
  queue.Route(4, New(needs, kStart), kStart + Quarantine::kFor, later);
  EXPECT_EQ(Started(later), (std::vector<CallId>{3, 4}));
  EXPECT_EQ(queue.num_quarantined(), 2);
}

TEST(DispatchQueue, LetsAReplaySettleSoThatGroupsThatDieTogetherAreOneDeath) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a", 1));
  Join(queue, Group("b", 1));
  queue.SetConnected("a", 1, false);
  DispatchQueue::Decisions decisions;
  queue.Route(1, Replay(Needs(), kStart, {Life("a", 1)}), kStart, decisions);
  queue.TakeTurn(kStart, true, decisions);
  EXPECT_TRUE(decisions.starts.empty());
  EXPECT_EQ(queue.next_turn(), kStart + kReplaySettle);
  // b dies a moment later, and both come back.
  queue.SetConnected("b", 1, false);
  queue.TakeTurn(kStart + kReplaySettle, true, decisions);
  EXPECT_TRUE(decisions.starts.empty());
  Join(queue, Group("a", 2));
  Join(queue, Group("b", 2));
  queue.TakeTurn(kStart + kReplaySettle, true, decisions);
  EXPECT_EQ(Started(decisions), std::vector<CallId>{1});
}

TEST(DispatchQueue, DoesNotQuarantineForGroupsThatDrainedOrOnlyLostTheirStream) {
  DispatchQueue queue(TestOptions());
  GroupReport draining = Group("a", 1);
  draining.who.draining = true;
  Join(queue, draining);
  Join(queue, Group("a", 2));
  Join(queue, Group("b", 1));
  DispatchQueue::Decisions decisions;
  queue.Route(1, Replay(Needs(), kStart, {Life("a", 1), Life("b", 1)}), kStart, decisions);
  EXPECT_EQ(Started(decisions), std::vector<CallId>{1});
}

TEST(DispatchQueue, DoesNotQuarantineForGroupsWhoseLeasesRanOutUnlessNobodyListensThere) {
  for (const bool died : {false, true}) {
    DispatchQueue queue(TestOptions());
    Join(queue, Group("a", 1));
    Join(queue, Group("b", 1));
    // A partition: nothing is heard of either any more.
    TimePoint now = kStart;
    DispatchQueue::Decisions decisions;
    while (!queue.snapshot().groups.empty()) {
      now += milliseconds(100);
      queue.TakeTurn(now, true, decisions);
    }
    if (died) {
      queue.NoteGone("a", 1);
      queue.NoteGone("b", 1);
    }
    ASSERT_TRUE(queue.Heartbeat(Group("c", 1), now).ok());
    queue.SetConnected("c", 1, true);
    queue.Route(1, Replay(Needs(), now, {Life("a", 1), Life("b", 1)}), now, decisions);
    EXPECT_EQ(decisions.refusals.size(), died ? 1 : 0);
    EXPECT_EQ(Started(decisions), died ? std::vector<CallId>() : std::vector<CallId>{1});
  }
}

TEST(DispatchQueue, MakesReplaysWaitForTheirBudget) {
  DispatchQueue::Options options = TestOptions();
  options.retry_budget = {.burst = 2, .per_second = 10};
  DispatchQueue queue(options);
  Join(queue, Group("a"));
  DispatchQueue::Decisions decisions;
  for (CallId id = 1; id <= 4; ++id) queue.Route(id, Replay(Needs(), kStart), kStart, decisions);
  queue.TakeTurn(kStart, true, decisions);
  EXPECT_EQ(Started(decisions), (std::vector<CallId>{1, 2}));
  EXPECT_TRUE(decisions.refusals.empty());
  // What costs nothing passes by.
  RouteRequest hand_over = Replay(Needs(), kStart);
  hand_over.kind = RouteKind::kHandOver;
  queue.Route(5, hand_over, kStart, decisions);
  EXPECT_EQ(Started(decisions), (std::vector<CallId>{1, 2, 5}));
  TimePoint now = kStart;
  for (int i = 0; i < 10 && queue.num_requests() > 0; ++i) {
    now = *queue.next_turn();
    queue.TakeTurn(now, true, decisions);
  }
  EXPECT_EQ(Started(decisions), (std::vector<CallId>{1, 2, 5, 3, 4}));
  EXPECT_LE(now, kStart + milliseconds(210));
}

TEST(DispatchQueue, KeepsAStreamThatWasLostForReplayWaitAndSaysWhatItWaitedFor) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a", 1, "another"));
  DispatchQueue::Decisions decisions;
  queue.Route(1, Replay(Needs(1, "n"), kStart), kStart, decisions);
  TimePoint now = kStart;
  while (now < kStart + milliseconds(4900)) {
    now += milliseconds(100);
    Join(queue, Group("a", 1, "another"), now);
    queue.TakeTurn(now, true, decisions);
  }
  EXPECT_TRUE(decisions.refusals.empty());
  queue.TakeTurn(now += milliseconds(100), true, decisions);
  ASSERT_EQ(decisions.refusals.size(), 1);
  EXPECT_NE(decisions.refusals[0].status.message().find("5000 ms (replay_wait_ms): none has numerics_id n"),
            absl::string_view::npos)
      << decisions.refusals[0].status;
  EXPECT_TRUE(RetryAfterOf(decisions.refusals[0].status).has_value());
}

TEST(DispatchQueue, HandsOverWhatADrainingGroupRunsAsFarAsOthersHaveRoom) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a"));
  DispatchQueue::Decisions decisions;
  for (CallId id = 1; id <= 3; ++id) queue.Route(id, New(Needs(2), kStart), kStart, decisions);
  ASSERT_EQ(decisions.starts.size(), 3);
  GroupReport draining = Group("a");
  draining.who.draining = true;
  Join(queue, draining);
  Join(queue, Group("b", 1, "another"));
  queue.TakeTurn(kStart, true, decisions);
  EXPECT_TRUE(decisions.hand_overs.empty());  // nobody can go on with the same ids
  Join(queue, Group("c"));
  queue.TakeTurn(kStart, true, decisions);
  ASSERT_EQ(decisions.hand_overs.size(), 1);
  EXPECT_EQ(decisions.hand_overs[0].group.group_id, "a");
  EXPECT_EQ(decisions.hand_overs[0].num_lanes, 4);
}

// One lane at a time, each of 20 tokens and 100 ms: 200 tokens a second.
TEST(DispatchQueue, RefusesWhatWouldWaitInVainAndSaysWhenToCome) {
  DispatchQueue::Options options = TestOptions();
  options.admission.max_queued_requests = 1000;
  options.admission.max_queued_tokens = 1'000'000;
  DispatchQueue queue(options);
  Join(queue, Group("a"));
  TimePoint now = kStart;
  CallId next = 1;
  DispatchQueue::Decisions decisions;
  for (int i = 0; i < 10; ++i) queue.Route(next++, New(Needs(/*num_lanes=*/8), now), now, decisions);
  size_t ended = 0;
  for (int i = 0; i < 60; ++i) {
    now += milliseconds(100);
    Join(queue, Group("a"), now);
    ASSERT_LT(ended, decisions.starts.size());
    queue.Release(decisions.starts[ended++].group, {.num_lanes = 8, .num_tokens = 20}, milliseconds(100), now);
    queue.TakeTurn(now, true, decisions);
    if (queue.num_requests() < 9) queue.Route(next++, New(Needs(/*num_lanes=*/8), now), now, decisions);
  }
  ASSERT_TRUE(decisions.refusals.empty());
  ASSERT_EQ(queue.num_requests(), 9);
  // 180 tokens wait: 900 ms, and 100 more to be served. With margins of a half and a quarter, 1475 ms are needed.
  DispatchQueue::Decisions late;
  RouteRequest urgent = New(Needs(), now);
  urgent.deadline = now + milliseconds(800);
  queue.Route(1001, urgent, now, late);
  ASSERT_EQ(late.refusals.size(), 1);
  EXPECT_EQ(late.refusals[0].status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(late.refusals[0].admitted);
  EXPECT_NEAR(ToMillis(*RetryAfterOf(late.refusals[0].status)), 675, 75);
  // Ahead of the others it can.
  urgent.priority = 16;
  queue.Route(1002, urgent, now, late);
  EXPECT_EQ(late.refusals.size(), 1);
  // Beyond queue_timeout nobody waits.
  for (CallId id = 2000; id < 2010; ++id) queue.Route(id, New(Needs(), now), now, late);
  EXPECT_GT(late.refusals.size(), 1);
  EXPECT_NE(late.refusals.back().status.message().find("queue_timeout_ms"), absl::string_view::npos);
}

TEST(DispatchQueue, ServesHigherPrioritiesFirst) {
  DispatchQueue queue(TestOptions());
  DispatchQueue::Decisions decisions;
  for (CallId id = 1; id <= 3; ++id) {
    RouteRequest request = New(Needs(), kStart);
    request.priority = static_cast<int>(id);
    queue.Route(id, request, kStart, decisions);
  }
  Join(queue, Group("a"));
  queue.TakeTurn(kStart, true, decisions);
  EXPECT_EQ(Started(decisions), (std::vector<CallId>{3, 2, 1}));
}

}  // namespace
}  // namespace outrider::router
