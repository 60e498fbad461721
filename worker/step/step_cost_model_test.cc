#include "worker/step/step_cost_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace outrider {
namespace {

TEST(StepCostModel, KnowsNothingAtFirstAndAllowsASmallStep) {
  const StepCostModel model;
  EXPECT_FALSE(model.known());
  EXPECT_EQ(model.EstimateMs(10), 0);
  EXPECT_EQ(model.RowsWithin(200, 2048), StepCostModel::kRowsUnmeasured);
  EXPECT_EQ(model.RowsWithin(200, 8), 8);
}

TEST(StepCostModel, InterpolatesBetweenWhatWasMeasuredAndGoesOnBeyond) {
  StepCostModel model;
  for (int i = 0; i < 5; ++i) model.Observe(1, 10), model.Observe(5, 18), model.Observe(64, 136);
  EXPECT_NEAR(model.EstimateMs(1), 10, 1e-9);
  EXPECT_NEAR(model.EstimateMs(3), 14, 1e-9);
  EXPECT_NEAR(model.EstimateMs(64), 136, 1e-9);
  EXPECT_NEAR(model.EstimateMs(100), 136 + 36 * 2, 1e-9);
}

TEST(StepCostModel, OnePointIsFlatBelowAndProportionalAbove) {
  StepCostModel model;
  model.Observe(4, 8);
  EXPECT_EQ(model.EstimateMs(1), 8);
  EXPECT_EQ(model.EstimateMs(8), 16);
}

TEST(StepCostModel, NeverFallsWithMoreRows) {
  StepCostModel model;
  model.Observe(1, 20), model.Observe(4, 12), model.Observe(16, 30);
  double last = 0;
  for (int rows = 1; rows < 200; ++rows) {
    EXPECT_GE(model.EstimateMs(rows), last) << rows;
    last = model.EstimateMs(rows);
  }
}

TEST(StepCostModel, BudgetGrowsAtMostTwofoldBeyondWhatWasMeasured) {
  StepCostModel model;
  model.Observe(64, 1);
  EXPECT_EQ(model.RowsWithin(200, 1 << 20), 128);
  model.Observe(128, 2);
  EXPECT_EQ(model.RowsWithin(200, 1 << 20), 256);
  EXPECT_EQ(model.RowsWithin(200, 100), 100);
}

TEST(StepCostModel, BudgetKeepsAStepWithinItsTime) {
  StepCostModel model;
  for (const int rows : {1, 16, 64, 128}) model.Observe(rows, 5 + rows);
  const int rows = model.RowsWithin(100, 4096);
  EXPECT_LE(model.EstimateMs(rows), 100);
  EXPECT_GT(model.EstimateMs(rows + 1), 100);
  EXPECT_EQ(model.RowsWithin(0.001, 4096), 1);
}

TEST(StepCostModel, OneSlowStepOfFewRowsDoesNotMakeManyRowsSlow) {
  StepCostModel model;
  model.Observe(1, 3000);
  model.Observe(16, 30), model.Observe(64, 90);
  EXPECT_NEAR(model.EstimateMs(16), 30, 1e-9);
  EXPECT_NEAR(model.EstimateMs(1), 30, 1e-9);
  EXPECT_GT(model.RowsWithin(200, 4096), 64);
}

TEST(StepCostModel, TheFirstFewStepsOfASizeCostAtMostWhatTheirNeighboursSay) {
  StepCostModel model;
  for (int i = 0; i < 10; ++i) model.Observe(1, 6), model.Observe(3, 8), model.Observe(8, 13);
  model.Observe(6, 30);
  EXPECT_NEAR(model.EstimateMs(6), 11, 1e-9);
  model.Observe(16, 90);  // beyond them too
  EXPECT_NEAR(model.EstimateMs(16), 21, 1e-9);
  EXPECT_EQ(model.most_rows(), 16);
  for (int i = 0; i < 20; ++i) model.Observe(16, 90);
  EXPECT_NEAR(model.EstimateMs(16), 90, 1e-6);
}

TEST(StepCostModel, KeepsTheStairAfterAFullTile) {
  StepCostModel model;
  for (int i = 0; i < 50; ++i)
    model.Observe(15, 12), model.Observe(16, 12), model.Observe(18, 15), model.Observe(20, 15);
  EXPECT_NEAR(model.EstimateMs(16), 12, 0.7);
  EXPECT_NEAR(model.EstimateMs(19), 15, 0.1);
}

TEST(StepCostModel, FollowsAChangeAndIgnoresNonsense) {
  StepCostModel model;
  for (int i = 0; i < 10; ++i) model.Observe(8, 10);
  for (int i = 0; i < 60; ++i) model.Observe(8, 20);
  EXPECT_NEAR(model.EstimateMs(8), 20, 0.1);
  model.Observe(8, std::nan(""));
  model.Observe(8, -1);
  model.Observe(8, std::numeric_limits<double>::infinity());
  model.Observe(0, 1);
  EXPECT_NEAR(model.EstimateMs(8), 20, 0.1);
}

}  // namespace
}  // namespace outrider
