#include "kernels/norm/rms_norm.h"

#include <cmath>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/targets.h"
#include "kernels/testing/tensor_compare.h"

namespace outrider::kernels {
namespace {

using testing::CompareBits;
using testing::CompareTensors;
using testing::kUnitRoundoff;
using testing::RandomTensor;

struct Shape {
  int num_rows, num_groups, group_size;
};

// Relative error of an output: the sum of n squares (n u), the mean, sqrt, reciprocal and two products (6 u), and half
// the sum's for the square root; the reference's own rounding (u).
std::vector<double> Tolerance(const std::vector<float>& expected, int group_size) {
  std::vector<double> tolerance;
  for (const float value : expected) {
    tolerance.push_back((group_size / 16.0 + 4 + 7) * kUnitRoundoff * std::fabs(value) + 1e-44);
  }
  return tolerance;
}

TEST(RmsNorm, AgreesWithReferenceOnEveryTarget) {
  const uint64_t seed = testing::TestSeed(11);
  testing::ForEachTarget([&](const char* target) {
    for (const Shape shape : {Shape{1, 1, 1}, {3, 1, 7}, {2, 3, 16}, {5, 1, 576}, {4, 9, 64}, {2, 1, 4099}}) {
      SCOPED_TRACE(::testing::Message() << target << " " << shape.num_rows << "x" << shape.num_groups << "x"
                                        << shape.group_size);
      const int64_t stride = int64_t{shape.num_groups} * shape.group_size + 5;
      const auto x = RandomTensor(shape.num_rows * stride, seed, {.num_outliers = 4});
      const auto weight = RandomTensor(shape.group_size, seed + 1);
      std::vector<float> actual(x.size(), 7.0f), expected(x.size(), 7.0f);
      RmsNormArgs args{.x = x.data(),
                       .weight = weight.data(),
                       .out = actual.data(),
                       .x_stride = stride,
                       .out_stride = stride,
                       .num_rows = shape.num_rows,
                       .num_groups = shape.num_groups,
                       .group_size = shape.group_size,
                       .epsilon = 1e-5f};
      ThreadPool pool(2);
      ASSERT_EQ(RmsNorm(args, pool), KernelError::kOk);
      args.out = expected.data();
      ASSERT_EQ(RmsNormReference(args), KernelError::kOk);
      EXPECT_EQ(CompareTensors(actual, expected, Tolerance(expected, shape.group_size)), "");
    }
  });
}

TEST(RmsNorm, BitsOfARowDoNotDependOnItsNeighboursOrThreads) {
  const uint64_t seed = testing::TestSeed(12);
  constexpr int kSize = 576;
  const auto weight = RandomTensor(kSize, seed + 1);
  const auto x = RandomTensor(2048 * kSize, seed, {.num_outliers = 100});
  std::vector<float> alone(x.size());
  ThreadPool one(1), three(3);
  for (int r = 0; r < 2048; ++r) {
    ASSERT_EQ(RmsNorm({.x = x.data() + r * kSize,
                       .weight = weight.data(),
                       .out = alone.data() + r * kSize,
                       .num_rows = 1,
                       .group_size = kSize},
                      one),
              KernelError::kOk);
  }
  for (const int num_rows : {1, 5, 64, 65, 256, 2048}) {
    std::vector<float> out(static_cast<size_t>(num_rows) * kSize);
    // The last rows, so that a row's index differs from the one it had alone.
    const float* first = x.data() + (2048 - num_rows) * kSize;
    ASSERT_EQ(RmsNorm({.x = first,
                       .weight = weight.data(),
                       .out = out.data(),
                       .x_stride = kSize,
                       .out_stride = kSize,
                       .num_rows = num_rows,
                       .group_size = kSize},
                      three),
              KernelError::kOk);
    EXPECT_EQ(CompareBits(out, std::span(alone).last(out.size())), "");
  }
}

TEST(RmsNorm, WorksInPlaceAndGivesTheSameBitsOnEveryTargetWithFma) {
  const auto x = RandomTensor(3 * 100, 5);
  const auto weight = RandomTensor(100, 6);
  ThreadPool pool(1);
  std::vector<float> first;
  testing::ForEachTarget([&](const char* target) {
    if (std::string_view(target).starts_with("AVX") == false) return;
    std::vector<float> out = x;
    ASSERT_EQ(RmsNorm({.x = out.data(),
                       .weight = weight.data(),
                       .out = out.data(),
                       .x_stride = 100,
                       .out_stride = 100,
                       .num_rows = 3,
                       .group_size = 100},
                      pool),
              KernelError::kOk);
    if (first.empty()) first = out;
    EXPECT_EQ(CompareBits(out, first), "") << target;
  });
}

TEST(RmsNorm, RefusesShapesThatDoNotFit) {
  ThreadPool pool(1);
  float x[8] = {};
  const RmsNormArgs good{.x = x, .weight = x, .out = x, .x_stride = 4, .out_stride = 4, .num_rows = 2, .group_size = 4};
  RmsNormArgs args = good;
  args.num_rows = -1;
  EXPECT_EQ(RmsNorm(args, pool), KernelError::kInvalidShape);
  args = good;
  args.x_stride = 3;
  EXPECT_EQ(RmsNorm(args, pool), KernelError::kInvalidShape);
  args = good;
  args.weight = nullptr;
  EXPECT_EQ(RmsNorm(args, pool), KernelError::kNullPointer);
  args = good;
  args.num_rows = 0;
  args.x = nullptr;
  EXPECT_EQ(RmsNorm(args, pool), KernelError::kOk);
}

}  // namespace
}  // namespace outrider::kernels
