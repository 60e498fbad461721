#include "kernels/rope/rope.h"

#include <cmath>
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

constexpr int kMaxPositions = 9000;

std::vector<RopeParams> AllParams() {
  std::vector<RopeParams> all;
  for (const RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalves}) {
    all.push_back({.rotary_dim = 64, .base = 1e5, .layout = layout});
    all.push_back({.rotary_dim = 12, .layout = layout});  // a part of the head, no multiple of a register
    all.push_back({.rotary_dim = 64, .layout = layout, .scaling = RopeScaling::kLinear, .factor = 4});
    all.push_back({.rotary_dim = 64, .base = 5e5, .layout = layout, .scaling = RopeScaling::kLlama3, .factor = 8});
    all.push_back({.rotary_dim = 64,
                   .base = 1.5e5,
                   .layout = layout,
                   .scaling = RopeScaling::kYarn,
                   .factor = 32,
                   .original_context = 4096,
                   .attention_factor = 1.3466});
    all.push_back({.rotary_dim = 4, .layout = layout, .scaling = RopeScaling::kFactors, .factors = {1.0f, 7.5f}});
  }
  return all;
}

TEST(Rope, AgreesWithReferenceOnEveryTarget) {
  const uint64_t seed = testing::TestSeed(41);
  const std::vector<int32_t> positions = {0, 1, 255, 256, 257, 4095, 8999};
  const int num_rows = static_cast<int>(positions.size());
  testing::ForEachTarget([&](const char* target) {
    for (const RopeParams& params : AllParams()) {
      SCOPED_TRACE(::testing::Message() << target << " scaling " << static_cast<int>(params.scaling) << " dim "
                                        << params.rotary_dim);
      constexpr int kHeads = 3, kHeadDim = 70, kStride = kHeads * kHeadDim + 2;
      RopeTable table;
      ASSERT_EQ(RopeTable::Create(params, kMaxPositions, &table), KernelError::kOk);
      auto actual = RandomTensor(num_rows * kStride, seed, {.num_outliers = 3});
      auto expected = actual;
      // Two rounded products of rounded cos and sin, one addition, one final rounding: 3 u of |a| + |b|; the doubles'
      // own error is 2^-40 of that.
      std::vector<double> tolerance;
      for (size_t i = 0; i < actual.size(); ++i) tolerance.push_back(0);
      for (int r = 0; r < num_rows; ++r) {
        for (int h = 0; h < kHeads; ++h) {
          const size_t head = static_cast<size_t>(r * kStride + h * kHeadDim);
          for (int p = 0; p < params.rotary_dim / 2; ++p) {
            const bool halves = params.layout == RopeLayout::kHalves;
            const size_t a = head + static_cast<size_t>(halves ? p : 2 * p);
            const size_t b = head + static_cast<size_t>(halves ? p + params.rotary_dim / 2 : 2 * p + 1);
            tolerance[a] = tolerance[b] =
                4 * kUnitRoundoff * params.attention_factor * (std::fabs(actual[a]) + std::fabs(actual[b]));
          }
        }
      }
      RopeArgs args{.x = actual.data(),
                    .x_stride = kStride,
                    .positions = positions.data(),
                    .table = &table,
                    .num_rows = num_rows,
                    .num_heads = kHeads,
                    .head_dim = kHeadDim};
      ThreadPool pool(2);
      ASSERT_EQ(Rope(args, pool), KernelError::kOk);
      args.x = expected.data();
      ASSERT_EQ(RopeReference(params, args), KernelError::kOk);
      EXPECT_EQ(CompareTensors(actual, expected, tolerance), "");
    }
  });
}

TEST(Rope, BitsOfARowDependOnItsPositionAloneOnEveryTarget) {
  const uint64_t seed = testing::TestSeed(42);
  constexpr int kHeads = 12, kHeadDim = 64, kStride = kHeads * kHeadDim;
  for (const RopeParams& params : AllParams()) {
    RopeTable table;
    ASSERT_EQ(RopeTable::Create(params, kMaxPositions, &table), KernelError::kOk);
    const auto x = RandomTensor(256 * kStride, seed);
    std::vector<int32_t> positions(256);
    for (size_t r = 0; r < positions.size(); ++r) positions[r] = static_cast<int32_t>(r * 7919 % kMaxPositions);
    ThreadPool one(1), three(3);
    std::vector<float> alone = x;
    for (int r = 0; r < 256; ++r) {
      ASSERT_EQ(Rope({.x = alone.data() + r * kStride,
                      .positions = positions.data() + r,
                      .table = &table,
                      .num_rows = 1,
                      .num_heads = kHeads,
                      .head_dim = kHeadDim},
                     one),
                KernelError::kOk);
    }
    testing::ForEachTarget([&](const char* target) {
      for (const int num_rows : {1, 5, 64, 65, 256}) {
        std::vector<float> out(x.end() - num_rows * kStride, x.end());
        ASSERT_EQ(Rope({.x = out.data(),
                        .x_stride = kStride,
                        .positions = positions.data() + 256 - num_rows,
                        .table = &table,
                        .num_rows = num_rows,
                        .num_heads = kHeads,
                        .head_dim = kHeadDim},
                       three),
                  KernelError::kOk);
        EXPECT_EQ(CompareBits(out, std::span(alone).last(out.size())), "") << target << " rows " << num_rows;
      }
    });
  }
}

// Values of transformers 5.23 `_compute_llama3_parameters` for head_dim 8, rope_theta 500000, factor 8, low 1, high 4,
// original 8192: pairs 0 and 1 are kept, the wavelength of pair 2 (4443) is blended, pair 3 is divided by 8.
TEST(RopeFrequencies, Llama3KeepsShortWavelengthsAndDividesLongOnes) {
  const auto f = RopeFrequencies({.rotary_dim = 8, .base = 5e5, .scaling = RopeScaling::kLlama3, .factor = 8});
  ASSERT_EQ(f.size(), 4u);
  EXPECT_DOUBLE_EQ(f[0], 1.0);
  EXPECT_DOUBLE_EQ(f[1], std::pow(5e5, -0.25));
  const double plain = std::pow(5e5, -0.5);
  const double smooth = (8192 * plain / 6.283185307179586 - 1) / 3;
  EXPECT_NEAR(f[2], plain * ((1 - smooth) / 8 + smooth), 1e-12);
  EXPECT_DOUBLE_EQ(f[3], std::pow(5e5, -0.75) / 8);
}

TEST(RopeFrequencies, YarnKeepsFastPairsAndDividesSlowOnes) {
  const RopeParams params{.rotary_dim = 64,
                          .base = 1.5e5,
                          .scaling = RopeScaling::kYarn,
                          .factor = 32,
                          .original_context = 4096,
                          .truncate = false};
  const auto f = RopeFrequencies(params);
  EXPECT_DOUBLE_EQ(f[0], 1.0);
  EXPECT_DOUBLE_EQ(f[31], std::pow(1.5e5, -62.0 / 64) / 32);
}

TEST(RopeTable, RefusesParametersThatDoNotFit) {
  RopeTable table;
  EXPECT_EQ(RopeTable::Create({.rotary_dim = 7}, 10, &table), KernelError::kInvalidShape);
  EXPECT_EQ(RopeTable::Create({.rotary_dim = 8, .base = 0}, 10, &table), KernelError::kInvalidShape);
  EXPECT_EQ(RopeTable::Create({.rotary_dim = 8, .scaling = RopeScaling::kFactors, .factors = {1.0f}}, 10, &table),
            KernelError::kInvalidShape);
  EXPECT_EQ(RopeTable::Create({.rotary_dim = 8}, 0, &table), KernelError::kInvalidShape);
  ASSERT_EQ(RopeTable::Create({.rotary_dim = 8}, 10, &table), KernelError::kOk);
  ThreadPool pool(1);
  float x[8] = {};
  const int32_t position = 10;
  EXPECT_EQ(Rope({.x = x, .positions = &position, .table = &table, .num_rows = 1, .num_heads = 1, .head_dim = 8}, pool),
            KernelError::kInvalidShape);
}

}  // namespace
}  // namespace outrider::kernels
