#include "worker/engine/inbox.h"

#include <gtest/gtest.h>

#include <thread>

namespace outrider {
namespace {

SubmitEvent SubmitOf(int num_lanes) {
  SubmitEvent event;
  event.request.lanes.resize(num_lanes);
  return event;
}

TEST(Inbox, GivesEventsInTheOrderTheyWerePosted) {
  Inbox inbox(4);
  ASSERT_TRUE(inbox.Post(SubmitOf(1)).ok());
  ASSERT_TRUE(inbox.Post(CancelEvent{nullptr, RequestId(1)}).ok());
  const std::vector<InboxEvent> events = inbox.Drain();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(std::holds_alternative<SubmitEvent>(events[0]));
  EXPECT_TRUE(std::holds_alternative<CancelEvent>(events[1]));
  EXPECT_TRUE(inbox.Drain().empty());
}

TEST(Inbox, RefusesSubmissionsBeyondItsCapacityAndNothingElse) {
  Inbox inbox(4);
  ASSERT_TRUE(inbox.Post(SubmitOf(3)).ok());
  EXPECT_EQ(inbox.Post(SubmitOf(2)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(inbox.Post(SubmitOf(1)).ok());
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(inbox.Post(CancelEvent{}).ok());
  inbox.Drain();
  EXPECT_TRUE(inbox.Post(SubmitOf(4)).ok());
}

TEST(Inbox, RefusesSubmissionsOnceClosedToThem) {
  Inbox inbox(4);
  inbox.CloseToSubmissions("draining");
  const absl::Status status = inbox.Post(SubmitOf(1));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "draining");
  EXPECT_TRUE(inbox.Post(CancelEvent{}).ok());
}

TEST(Inbox, WakesItsReader) {
  Inbox inbox(4);
  std::thread reader([&] {
    while (inbox.Drain().empty()) inbox.WaitUntil(TimePoint::max());
  });
  ASSERT_TRUE(inbox.Post(CancelEvent{}).ok());
  reader.join();
  inbox.Wake();
  inbox.WaitUntil(TimePoint::max());  // a wake that came before counts
}

TEST(Inbox, SleepsNoLongerThanToldTo) {
  Inbox inbox(4);
  inbox.WaitUntil(std::chrono::steady_clock::now());
}

}  // namespace
}  // namespace outrider
