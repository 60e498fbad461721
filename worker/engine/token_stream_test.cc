#include "worker/engine/token_stream.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

const LaneId kLane{RequestId(1), 0};

TokensEvent Tokens(int first, int count) {
  return {.first_output_index = first, .tokens = std::vector<TokenId>(count, 7)};
}

TEST(TokenStream, GivesEventsInOrderOnceFlushed) {
  int num_ready = 0;
  TokenStream stream(10, [&] { ++num_ready; });
  ASSERT_TRUE(stream.Append(kLane, Tokens(0, 2)));
  stream.Append(kLane, FinishedEvent{.reason = FinishReason::kLength});
  EXPECT_TRUE(stream.Take().empty());
  EXPECT_EQ(num_ready, 0);
  stream.Flush();
  EXPECT_EQ(num_ready, 1);
  const std::vector<LaneEvent> events = stream.Take();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(std::holds_alternative<TokensEvent>(events[0].event));
  EXPECT_TRUE(std::holds_alternative<FinishedEvent>(events[1].event));
}

TEST(TokenStream, TellsTheReaderOnlyWhenNothingWaited) {
  int num_ready = 0;
  TokenStream stream(10, [&] { ++num_ready; });
  stream.Flush();
  EXPECT_EQ(num_ready, 0);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(stream.Append(kLane, Tokens(i, 1)));
    stream.Flush();
  }
  EXPECT_EQ(num_ready, 1);
  EXPECT_EQ(stream.Take().size(), 3u);
  ASSERT_TRUE(stream.Append(kLane, Tokens(3, 1)));
  stream.Flush();
  EXPECT_EQ(num_ready, 2);
}

TEST(TokenStream, RefusesALaneAtItsBoundButTakesItsEnd) {
  TokenStream stream(10, [] {});
  ASSERT_TRUE(stream.Append(kLane, Tokens(0, 10)));
  EXPECT_FALSE(stream.Append(kLane, Tokens(10, 1)));
  EXPECT_TRUE(stream.Append({RequestId(2), 0}, Tokens(0, 10)));  // each lane has its own bound
  stream.Append(kLane, FailedEvent{.status = absl::ResourceExhaustedError("slow")});
  stream.Flush();
  EXPECT_EQ(stream.Take().size(), 3u);
  EXPECT_TRUE(stream.Append(kLane, Tokens(10, 10)));  // room again
}

TEST(TokenStream, RefusesAnyLaneAtTheBoundOfTheStream) {
  TokenStream stream(1, [] {});
  for (uint64_t i = 0; i < TokenStream::kLanesWorth; ++i) ASSERT_TRUE(stream.Append({RequestId(i), 0}, Tokens(0, 1)));
  EXPECT_FALSE(stream.Append({RequestId(9999), 0}, Tokens(0, 1)));
}

TEST(TokenStream, DropsEverythingOnceClosed) {
  int num_ready = 0;
  TokenStream stream(1, [&] { ++num_ready; });
  ASSERT_TRUE(stream.Append(kLane, Tokens(0, 1)));
  stream.Close();
  EXPECT_TRUE(stream.Append(kLane, Tokens(1, 100)));
  stream.Flush();
  EXPECT_TRUE(stream.Take().empty());
  EXPECT_EQ(num_ready, 0);
}

}  // namespace
}  // namespace outrider
