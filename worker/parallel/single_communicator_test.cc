#include "worker/parallel/single_communicator.h"

#include <gtest/gtest.h>

#include <cmath>

namespace outrider {
namespace {

TEST(SingleCommunicator, LeavesASumAsItIs) {
  SingleCommunicator communicator;
  float data[3] = {-0.0f, 1.5f, -2.0f};
  ASSERT_TRUE(communicator.AllReduceSum(data, 3).ok());
  EXPECT_TRUE(std::signbit(data[0]));
  EXPECT_EQ(data[1], 1.5f);
  EXPECT_EQ(data[2], -2.0f);
}

TEST(SingleCommunicator, GathersItsOwnBytes) {
  SingleCommunicator communicator;
  const int64_t bytes_of_rank[1] = {4};
  char receive[5] = "----";
  ASSERT_TRUE(communicator.AllGather("abcd", bytes_of_rank, receive).ok());
  EXPECT_STREQ(receive, "abcd");
}

TEST(SingleCommunicator, FailsWithTheFirstReasonOnceAborted) {
  SingleCommunicator communicator;
  ASSERT_TRUE(communicator.AwaitPeer(0).ok());
  communicator.Abort("first");
  communicator.Abort("second");
  EXPECT_EQ(communicator.Broadcast(nullptr, 0, 0), absl::UnavailableError("first"));
  EXPECT_EQ(communicator.AllReduceSum(nullptr, 0), absl::UnavailableError("first"));
}

}  // namespace
}  // namespace outrider
