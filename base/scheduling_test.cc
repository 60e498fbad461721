#include "base/scheduling.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <thread>

namespace outrider {
namespace {

TEST(Scheduling, AThreadWithShortSlicesHandsThemToThoseItStartsAndKeepsItsNiceValue) {
  // In threads of their own: the test's keeps what it has.
  std::thread([] {
    ASSERT_EQ(::setpriority(PRIO_PROCESS, 0, 3), 0);
    if (!UseShortSlices()) {
      EXPECT_NE(RequestedSlice(), std::chrono::microseconds(100));
      GTEST_SKIP() << "this kernel knows no slices a thread (before Linux 6.12)";
    }
    EXPECT_EQ(RequestedSlice(), std::chrono::microseconds(100));
    EXPECT_EQ(::getpriority(PRIO_PROCESS, 0), 3);
    Duration of_child{};
    std::thread([&] { of_child = RequestedSlice(); }).join();
    EXPECT_EQ(of_child, std::chrono::microseconds(100));
  }).join();
}

}  // namespace
}  // namespace outrider
