#include "router/admission_controller.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace outrider::router {
namespace {

using Arrival = AdmissionController::Arrival;
using Ticket = AdmissionController::Ticket;
using Visit = AdmissionController::Visit;
using std::chrono::milliseconds;
constexpr TimePoint kStart{};

AdmissionController Make() {
  return AdmissionController({.max_queued_requests = 3,
                              .max_queued_tokens = 100,
                              .queue_timeout = milliseconds(1000),
                              .replay_wait = milliseconds(2000),
                              .priority_ageing = milliseconds(100)});
}

// True if it was taken.
bool Enqueue(AdmissionController& queue, Ticket ticket, const Arrival& arrival) {
  std::vector<Ticket> displaced;
  const bool taken = queue.Enqueue(ticket, arrival, displaced).ok();
  EXPECT_TRUE(displaced.empty());
  return taken;
}

std::vector<Ticket> Order(AdmissionController& queue) {
  std::vector<Ticket> order;
  queue.VisitInOrder([&](Ticket ticket) {
    order.push_back(ticket);
    return Visit::kSkip;
  });
  return order;
}

TEST(AdmissionController, KeepsTheOrderAndPutsReplaysFirst) {
  AdmissionController queue = Make();
  EXPECT_TRUE(Enqueue(queue, 5, {.num_tokens = 1}));
  EXPECT_TRUE(Enqueue(queue, 4, {.num_tokens = 1}));
  EXPECT_TRUE(Enqueue(queue, 9, {.num_tokens = 1, .replay = true, .since = kStart + milliseconds(50)}));
  EXPECT_EQ(Order(queue), (std::vector<Ticket>{9, 5, 4}));
}

TEST(AdmissionController, PutsHigherPrioritiesFirstAndLetsTheOthersAge) {
  AdmissionController queue = Make();
  EXPECT_TRUE(Enqueue(queue, 1, {.since = kStart}));
  EXPECT_TRUE(Enqueue(queue, 2, {.priority = 3, .since = kStart + milliseconds(299)}));
  // Two hundred ms of ageing less: the first has waited as long as three priorities are worth.
  EXPECT_TRUE(Enqueue(queue, 3, {.priority = 3, .since = kStart + milliseconds(301)}));
  EXPECT_EQ(Order(queue), (std::vector<Ticket>{2, 1, 3}));
}

TEST(AdmissionController, RefusesBeyondItsCountAndNamesTheSetting) {
  AdmissionController queue = Make();
  for (Ticket ticket = 1; ticket <= 3; ++ticket) ASSERT_TRUE(Enqueue(queue, ticket, {.num_tokens = 1}));
  std::vector<Ticket> displaced;
  const absl::Status refused = queue.Enqueue(4, {.num_tokens = 1}, displaced);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("max_queued_requests = 3"), absl::string_view::npos) << refused.message();
  EXPECT_TRUE(Enqueue(queue, 4, {.num_tokens = 1, .replay = true}));
}

TEST(AdmissionController, RefusesBeyondItsTokensButTakesAnyFirstRequest) {
  AdmissionController queue = Make();
  EXPECT_TRUE(Enqueue(queue, 1, {.num_tokens = 1000}));
  std::vector<Ticket> displaced;
  const absl::Status refused = queue.Enqueue(2, {.num_tokens = 1}, displaced);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("max_queued_tokens = 100"), absl::string_view::npos) << refused.message();
  queue.SetTokens(1, 99);
  EXPECT_TRUE(Enqueue(queue, 2, {.num_tokens = 1}));
  EXPECT_EQ(queue.num_tokens(), 100);
}

TEST(AdmissionController, DisplacesTheLastOfLowerPriorityAtItsBound) {
  AdmissionController queue = Make();
  EXPECT_TRUE(Enqueue(queue, 1, {.num_tokens = 10, .priority = 1}));
  EXPECT_TRUE(Enqueue(queue, 2, {.num_tokens = 10}));
  EXPECT_TRUE(Enqueue(queue, 3, {.num_tokens = 10}));
  std::vector<Ticket> displaced;
  EXPECT_TRUE(queue.Enqueue(4, {.num_tokens = 10, .priority = 1}, displaced).ok());
  EXPECT_EQ(displaced, std::vector<Ticket>{3});
  // By weight: two must go, and there is only one of lower priority. Nobody goes then.
  displaced.clear();
  EXPECT_FALSE(queue.Enqueue(5, {.num_tokens = 85, .priority = 1}, displaced).ok());
  EXPECT_TRUE(displaced.empty());
  EXPECT_EQ(Order(queue), (std::vector<Ticket>{1, 4, 2}));
}

TEST(AdmissionController, NeverDisplacesAReplay) {
  AdmissionController queue = Make();
  for (Ticket ticket = 1; ticket <= 3; ++ticket) EXPECT_TRUE(Enqueue(queue, ticket, {.replay = true}));
  std::vector<Ticket> displaced;
  EXPECT_FALSE(queue.Enqueue(4, {.priority = 16}, displaced).ok());
  EXPECT_TRUE(displaced.empty());
}

TEST(AdmissionController, LetsGoOfThoseThatWaitedTooLong) {
  AdmissionController queue = Make();
  EXPECT_TRUE(Enqueue(queue, 1, {.num_tokens = 1}));
  EXPECT_TRUE(Enqueue(queue, 2, {.num_tokens = 2, .since = kStart + milliseconds(1)}));
  EXPECT_TRUE(Enqueue(queue, 3, {.num_tokens = 4, .deadline = kStart + milliseconds(500)}));
  EXPECT_TRUE(Enqueue(queue, 4, {.num_tokens = 8, .replay = true}));
  EXPECT_EQ(queue.next_expiry(), kStart + milliseconds(500));
  EXPECT_EQ(queue.TakeExpired(kStart + milliseconds(500)), std::vector<Ticket>{3});
  EXPECT_TRUE(queue.TakeExpired(kStart + milliseconds(999)).empty());
  EXPECT_EQ(queue.TakeExpired(kStart + milliseconds(1000)), std::vector<Ticket>{1});
  EXPECT_EQ(Order(queue), (std::vector<Ticket>{4, 2}));
  EXPECT_EQ(queue.num_tokens(), 10);
  EXPECT_FALSE(queue.Remove(1));
  EXPECT_TRUE(queue.Remove(2));
  EXPECT_EQ(queue.next_expiry(), kStart + milliseconds(2000));
}

TEST(AdmissionController, KnowsWhatIsAhead) {
  AdmissionController queue = Make();
  EXPECT_TRUE(Enqueue(queue, 1, {.num_tokens = 1}));
  EXPECT_TRUE(Enqueue(queue, 2, {.num_tokens = 2, .priority = 2}));
  EXPECT_TRUE(Enqueue(queue, 3, {.num_tokens = 4, .replay = true}));
  EXPECT_EQ(queue.TokensAhead({}), 7);
  EXPECT_EQ(queue.TokensAhead({.priority = 1}), 6);
  EXPECT_EQ(queue.TokensAhead({.priority = 3}), 4);
  EXPECT_EQ(queue.TokensAhead({.replay = true, .priority = 1}), 0);
}

TEST(AdmissionController, TakesSkipsAndStopsAsTold) {
  AdmissionController queue({.max_queued_requests = 100, .max_queued_tokens = 1000});
  for (Ticket ticket = 0; ticket < 70; ++ticket) ASSERT_TRUE(Enqueue(queue, ticket, {.num_tokens = 1}));
  size_t i = 0;
  queue.VisitInOrder([&](Ticket ticket) {
    EXPECT_EQ(ticket, i);
    ++i;
    return i == 60 ? Visit::kStop : i % 2 == 0 ? Visit::kTake : Visit::kSkip;
  });
  EXPECT_EQ(i, 60);
  EXPECT_EQ(queue.num_requests(), 70 - 29);
  EXPECT_EQ(queue.num_tokens(), 70 - 29);
}

// A flood of the highest priority, twice of what is taken, with one of the lowest waiting from the start: it is passed
// only by those that come while the difference of priorities is worth more than its age.
TEST(AdmissionController, StarvesNobody) {
  AdmissionController queue({.priority_ageing = milliseconds(100)});
  ASSERT_TRUE(Enqueue(queue, 0, {.priority = -16, .since = kStart}));
  Ticket next = 1;
  int num_before = 0;
  bool taken = false;
  for (TimePoint now = kStart; !taken && next < 4000; now += milliseconds(20)) {
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(Enqueue(queue, next++, {.priority = 16, .since = now}));
    bool one = false;
    queue.VisitInOrder([&](Ticket ticket) {
      if (std::exchange(one, true)) return Visit::kStop;
      taken = ticket == 0;
      num_before += !taken;
      return Visit::kTake;
    });
  }
  EXPECT_TRUE(taken);
  EXPECT_EQ(num_before, 2 * (32 * 100 / 20));
}

}  // namespace
}  // namespace outrider::router
