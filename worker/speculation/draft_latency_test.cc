#include "worker/speculation/draft_latency.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

TimePoint At(double milliseconds) { return TimePoint{} + FromMillis(milliseconds); }

TEST(DraftLatency, IsZeroBeforeAnythingWasMeasured) { EXPECT_EQ(DraftLatency().EstimateMs(4, 1, At(0)), 0); }

TEST(DraftLatency, AveragesWhatWasMeasuredAndScalesTheRest) {
  DraftLatency latency;
  for (int i = 0; i < 40; ++i) latency.Observe(4, 1, 10, At(0));
  EXPECT_NEAR(latency.EstimateMs(4, 1, At(0)), 10, 1e-9);
  EXPECT_NEAR(latency.EstimateMs(2, 1, At(0)), 6, 1e-9);
  EXPECT_NEAR(latency.EstimateMs(9, 1, At(0)), 20, 1e-9);
  EXPECT_NEAR(latency.EstimateMs(4, 16, At(0)), 10, 1e-9);
}

TEST(DraftLatency, FewerSequencesAreExpectedToTakeLess) {
  DraftLatency latency;
  latency.Observe(4, 16, 100, At(0));
  EXPECT_LT(latency.EstimateMs(4, 1, At(0)), 25);
}

TEST(DraftLatency, KnowsGroupsOfSequencesApart) {
  DraftLatency latency;
  latency.Observe(4, 1, 10, At(0));
  latency.Observe(4, 16, 100, At(0));
  EXPECT_NEAR(latency.EstimateMs(4, 1, At(0)), 10, 1e-9);
  EXPECT_NEAR(latency.EstimateMs(4, 12, At(0)), 100, 1e-9);
}

TEST(DraftLatency, OneInterruptionDoesNotMakeItSlow) {
  DraftLatency latency;
  for (int i = 0; i < 10; ++i) latency.Observe(4, 1, 10, At(0));
  latency.Observe(4, 1, 5000, At(0));
  EXPECT_LT(latency.EstimateMs(4, 1, At(0)), 20);
}

TEST(DraftLatency, ForgetsABusySecondWithinAFewSeconds) {
  DraftLatency latency;
  for (int i = 0; i < 10; ++i) latency.Observe(1, 1, 2, At(0));
  for (int i = 0; i < 3; ++i) latency.Observe(1, 1, 20, At(1000));  // then it is too slow to be asked
  EXPECT_LT(latency.EstimateMs(1, 1, At(1000)), 4);
  EXPECT_LT(latency.EstimateMs(1, 1, At(31000)), 2.5);
}

TEST(DraftLatency, HopesSlowlyAsTimeGoesBy) {
  DraftLatency latency;
  latency.Observe(4, 1, 100, At(0));
  EXPECT_GT(latency.EstimateMs(4, 1, At(5000)), 85);
  EXPECT_LT(latency.EstimateMs(4, 1, At(120000)), 30);
}

}  // namespace
}  // namespace outrider
