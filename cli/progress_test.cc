#include "cli/progress.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

TEST(Progress, BarTellsShareRateAndTimeLeft) {
  EXPECT_EQ(ProgressBar("requests", ProgressUnit::kCount, 25, 100, 5, 80),
            "requests  25% [#######                       ] 25/100, 5.0/s, 15 s left");
  EXPECT_EQ(ProgressBar("reading", ProgressUnit::kBytes, 98'000'000, 98'000'000, 2, 80),
            "reading 100% [##############################] 98.0/98.0 MB, 49.0 MB/s");
  EXPECT_EQ(ProgressLine("requests", ProgressUnit::kCount, 1, 1000, 1), "requests 0% 1/1000, 1.0/s, 16:39 left");
  EXPECT_EQ(ProgressLine("requests", ProgressUnit::kCount, 1, 10000, 1), "requests 0% 1/10000, 1.0/s, 2:46:39 left");
}

TEST(Progress, GivesUpTheBarFirstAndNeverIsWiderThanTheTerminal) {
  EXPECT_EQ(ProgressBar("requests", ProgressUnit::kCount, 25, 100, 5, 42), "requests  25% 25/100, 5.0/s, 15 s left");
  for (int width = 0; width <= 100; ++width) {
    EXPECT_LE(ProgressBar("requests", ProgressUnit::kCount, 25, 100, 5, width).size(), static_cast<size_t>(width));
  }
}

TEST(Progress, KnowsNoTimeLeftBeforeAnythingIsDone) {
  EXPECT_EQ(ProgressLine("requests", ProgressUnit::kCount, 0, 10, 3), "requests 0% 0/10, 0.0/s");
  EXPECT_EQ(ProgressLine("requests", ProgressUnit::kCount, 1, 10, 0), "requests 10% 1/10, 0.0/s");
}

}  // namespace
}  // namespace outrider
