#include "router/admission_controller.h"

#include <gtest/gtest.h>

#include "absl/status/statusor.h"

namespace outrider::router {
namespace {

using Place = AdmissionController::Place;
using Ticket = AdmissionController::Ticket;
using Visit = AdmissionController::Visit;
using std::chrono::milliseconds;
constexpr TimePoint kStart{};

// Tickets from 1, in order of arrival.
class Queue : public AdmissionController {
 public:
  using AdmissionController::AdmissionController;
  absl::StatusOr<Ticket> Enqueue(Place place, int64_t num_tokens, TimePoint now) {
    const absl::Status status = AdmissionController::Enqueue(++last_ticket_, place, num_tokens, now);
    if (!status.ok()) return status;
    return last_ticket_;
  }

 private:
  Ticket last_ticket_ = 0;
};

Queue Make() {
  return Queue({.max_queued_requests = 3, .max_queued_tokens = 100, .queue_timeout = milliseconds(1000)});
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
  Queue queue = Make();
  const Ticket a = *queue.Enqueue(Place::kBack, 1, kStart);
  const Ticket b = *queue.Enqueue(Place::kBack, 1, kStart);
  const Ticket replay = *queue.Enqueue(Place::kFront, 1, kStart);
  EXPECT_EQ(Order(queue), (std::vector<Ticket>{replay, a, b}));
}

TEST(AdmissionController, RefusesBeyondItsCountAndNamesTheSetting) {
  Queue queue = Make();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(queue.Enqueue(Place::kBack, 1, kStart).ok());
  const absl::Status refused = queue.Enqueue(Place::kBack, 1, kStart).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("max_queued_requests = 3"), absl::string_view::npos) << refused.message();
  EXPECT_TRUE(queue.Enqueue(Place::kFront, 1, kStart).ok());
}

TEST(AdmissionController, RefusesBeyondItsTokensButTakesAnyFirstRequest) {
  Queue queue = Make();
  const Ticket huge = *queue.Enqueue(Place::kBack, 1000, kStart);
  const absl::Status refused = queue.Enqueue(Place::kBack, 1, kStart).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("max_queued_tokens = 100"), absl::string_view::npos) << refused.message();
  queue.SetTokens(huge, 99);
  EXPECT_TRUE(queue.Enqueue(Place::kBack, 1, kStart).ok());
  EXPECT_EQ(queue.num_tokens(), 100);
}

TEST(AdmissionController, LetsGoOfThoseThatWaitedTooLong) {
  Queue queue = Make();
  const Ticket a = *queue.Enqueue(Place::kBack, 1, kStart);
  const Ticket b = *queue.Enqueue(Place::kBack, 2, kStart + milliseconds(1));
  EXPECT_EQ(queue.next_expiry(), kStart + milliseconds(1000));
  EXPECT_TRUE(queue.TakeExpired(kStart + milliseconds(999)).empty());
  EXPECT_EQ(queue.TakeExpired(kStart + milliseconds(1000)), std::vector<Ticket>{a});
  EXPECT_EQ(Order(queue), std::vector<Ticket>{b});
  EXPECT_EQ(queue.num_tokens(), 2);
  EXPECT_FALSE(queue.Remove(a));
  EXPECT_TRUE(queue.Remove(b));
  EXPECT_FALSE(queue.next_expiry().has_value());
}

TEST(AdmissionController, TakesSkipsAndStopsAsTold) {
  Queue queue({.max_queued_requests = 100, .max_queued_tokens = 1000, .queue_timeout = milliseconds(1000)});
  std::vector<Ticket> tickets;
  for (int i = 0; i < 70; ++i) tickets.push_back(*queue.Enqueue(Place::kBack, 1, kStart));
  size_t i = 0;
  queue.VisitInOrder([&](Ticket ticket) {
    EXPECT_EQ(ticket, tickets[i]);
    ++i;
    return i == 60 ? Visit::kStop : i % 2 == 0 ? Visit::kTake : Visit::kSkip;
  });
  EXPECT_EQ(i, 60);
  EXPECT_EQ(queue.num_requests(), 70 - 29);
  EXPECT_EQ(queue.num_tokens(), 70 - 29);
}

}  // namespace
}  // namespace outrider::router
