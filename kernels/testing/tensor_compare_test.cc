#include "kernels/testing/tensor_compare.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace outrider::kernels::testing {
namespace {

const std::vector<double> kTolerance = {0.5};

TEST(CompareTensors, NamesTheWorstElement) {
  const std::vector<float> expected = {1, 2, 3, 4};
  EXPECT_EQ(CompareTensors(expected, expected, kTolerance), "");
  EXPECT_EQ(CompareTensors(std::vector<float>{1.5f, 2, 3, 4}, expected, kTolerance), "");
  const std::string text = CompareTensors(std::vector<float>{2, 2, 9, 4}, expected, kTolerance);
  EXPECT_NE(text.find("element 2 of 4"), std::string::npos) << text;
}

TEST(CompareTensors, NeverAcceptsNan) {
  const std::vector<float> nan = {NAN}, one = {1.0f};
  EXPECT_NE(CompareTensors(nan, one, kTolerance), "");
  EXPECT_NE(CompareTensors(one, nan, kTolerance), "");
  EXPECT_NE(CompareTensors(one, std::vector<float>{1, 2}, kTolerance), "");
}

TEST(CompareBits, TellsZerosApart) {
  EXPECT_EQ(CompareBits(std::vector<float>{NAN}, std::vector<float>{NAN}), "");
  EXPECT_NE(CompareBits(std::vector<float>{0.0f}, std::vector<float>{-0.0f}), "");
}

TEST(DotErrorBound, GrowsWithTheNumberOfTerms) {
  EXPECT_DOUBLE_EQ(DotErrorBound(1, 1.0), kUnitRoundoff / (1 - kUnitRoundoff));
  EXPECT_GT(DotErrorBound(1000, 1.0), 999 * DotErrorBound(1, 1.0));
}

}  // namespace
}  // namespace outrider::kernels::testing
