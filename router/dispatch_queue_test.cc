#include "router/dispatch_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace outrider::router {
namespace {

using Place = AdmissionController::Place;
using std::chrono::milliseconds;
constexpr TimePoint kStart{};

DispatchQueue::Options TestOptions() {
  return {.admission = {.max_queued_requests = 4, .max_queued_tokens = 1000, .queue_timeout = milliseconds(1000)},
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

std::vector<CallId> Started(const DispatchQueue::Decisions& decisions) {
  std::vector<CallId> ids;
  for (const auto& start : decisions.starts) ids.push_back(start.call_id);
  return ids;
}

TEST(DispatchQueue, StartsAtOnceWhereThereIsRoom) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a"));
  DispatchQueue::Decisions decisions;
  queue.Route(1, Needs(), 0, Place::kBack, kStart, decisions);
  ASSERT_EQ(decisions.starts.size(), 1);
  EXPECT_EQ(decisions.starts[0].group.group_id, "a");
  EXPECT_EQ(decisions.starts[0].group.epoch, 7);
  EXPECT_EQ(queue.snapshot().groups[0].own.num_tokens, 20);
  queue.Release(decisions.starts[0].group, {.num_lanes = 1, .num_tokens = 20});
  EXPECT_EQ(queue.snapshot().groups[0].own.num_tokens, 0);
}

TEST(DispatchQueue, LetsWaitingCallsGoInOrderOnceThereIsRoom) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a"));
  DispatchQueue::Decisions decisions;
  queue.Route(1, Needs(/*num_lanes=*/8), 0, Place::kBack, kStart, decisions);
  queue.Route(2, Needs(), 0, Place::kBack, kStart, decisions);
  queue.Route(3, Needs(), 0, Place::kBack, kStart, decisions);
  queue.Route(4, Needs(), 0, Place::kFront, kStart, decisions);
  EXPECT_EQ(Started(decisions), std::vector<CallId>{1});
  EXPECT_EQ(queue.num_requests(), 3);
  DispatchQueue::Decisions turn;
  queue.Release(decisions.starts[0].group, {.num_lanes = 8, .num_tokens = 20});
  EXPECT_TRUE(queue.turn_wanted());
  queue.TakeTurn(kStart, true, turn);
  EXPECT_EQ(Started(turn), (std::vector<CallId>{4, 2, 3}));
  EXPECT_FALSE(queue.turn_wanted());
}

TEST(DispatchQueue, DoesNotLetOneThatNobodyCanTakeHoldUpTheOthers) {
  DispatchQueue queue(TestOptions());
  DispatchQueue::Decisions decisions;
  queue.Route(1, Needs(1, "other"), 0, Place::kFront, kStart, decisions);
  queue.Route(2, Needs(), 0, Place::kBack, kStart, decisions);
  Join(queue, Group("a"));
  queue.TakeTurn(kStart, true, decisions);
  EXPECT_EQ(Started(decisions), std::vector<CallId>{2});
}

TEST(DispatchQueue, PreparesCallsThatCameBeforeTheModel) {
  DispatchQueue queue(TestOptions());
  DispatchQueue::Decisions decisions;
  queue.Route(1, std::nullopt, 50, Place::kBack, kStart, decisions);
  queue.Route(2, std::nullopt, 50, Place::kBack, kStart, decisions);
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
  for (CallId id = 1; id <= 5; ++id) queue.Route(id, Needs(), 0, Place::kBack, kStart, decisions);
  ASSERT_EQ(decisions.refusals.size(), 1);
  EXPECT_EQ(decisions.refusals[0].call_id, 5);
  EXPECT_EQ(decisions.refusals[0].status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(queue.Withdraw(2));
  EXPECT_FALSE(queue.Withdraw(2));
  DispatchQueue::Decisions turn;
  queue.TakeTurn(*queue.next_expiry(), true, turn);
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
  queue.Route(1, Needs(), 0, Place::kBack, now, decisions);
  EXPECT_EQ(decisions.starts.at(0).group.group_id, "b");
}

TEST(DispatchQueue, GivesNothingToAGroupThatWasHeldUntilItsNextHeartbeat) {
  DispatchQueue queue(TestOptions());
  Join(queue, Group("a"));
  queue.Hold({.group_id = "a", .incarnation = 1});
  DispatchQueue::Decisions decisions;
  queue.Route(1, Needs(), 0, Place::kBack, kStart, decisions);
  EXPECT_TRUE(decisions.starts.empty());
  Join(queue, Group("a"));
  queue.TakeTurn(kStart, true, decisions);
  EXPECT_EQ(Started(decisions), std::vector<CallId>{1});
}

}  // namespace
}  // namespace outrider::router
