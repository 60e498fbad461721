#include "kernels/activation/silu_mul.h"

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

// exp's relative error is 3e-7 = 5 u; addition, division, product and the reference's rounding add 4 u. Below gate =
// -88 the sigmoid stays at exp(-88) = 6.1e-39.
std::vector<double> Tolerance(const std::vector<float>& expected, const std::vector<float>& gate,
                              const std::vector<float>& up) {
  std::vector<double> tolerance;
  for (size_t i = 0; i < expected.size(); ++i) {
    tolerance.push_back(9 * kUnitRoundoff * std::fabs(expected[i]) +
                        6.1e-39 * std::fabs(static_cast<double>(gate[i]) * up[i]));
  }
  return tolerance;
}

TEST(SiluMul, AgreesWithReferenceOnEveryTarget) {
  const uint64_t seed = testing::TestSeed(21);
  testing::ForEachTarget([&](const char* target) {
    for (const int columns : {1, 7, 64, 1536, 5001}) {
      SCOPED_TRACE(::testing::Message() << target << " " << columns);
      auto gate = RandomTensor(3 * columns, seed, {.scale = 4, .num_outliers = 6});
      const auto up = RandomTensor(3 * columns, seed + 1, {.num_outliers = 3});
      gate[0] = 0.0f;
      gate.back() = -95.0f;
      std::vector<float> actual(gate.size()), expected(gate.size());
      SiluMulArgs args{.gate = gate.data(),
                       .up = up.data(),
                       .out = actual.data(),
                       .gate_stride = columns,
                       .up_stride = columns,
                       .out_stride = columns,
                       .num_rows = 3,
                       .num_columns = columns};
      ThreadPool pool(2);
      ASSERT_EQ(SiluMul(args, pool), KernelError::kOk);
      args.out = expected.data();
      ASSERT_EQ(SiluMulReference(args), KernelError::kOk);
      EXPECT_EQ(CompareTensors(actual, expected, Tolerance(expected, gate, up)), "");
    }
  });
}

TEST(SiluMul, BitsAreTheSameForAnyNumberOfRowsThreadsAndTargets) {
  const uint64_t seed = testing::TestSeed(22);
  constexpr int kColumns = 300;  // no multiple of a register
  const auto gate = RandomTensor(2048 * kColumns, seed, {.num_outliers = 50});
  const auto up = RandomTensor(2048 * kColumns, seed + 1);
  std::vector<float> alone(gate.size());
  ThreadPool one(1), three(3);
  for (int64_t r = 0; r < 2048; ++r) {
    ASSERT_EQ(SiluMul({.gate = gate.data() + r * kColumns,
                       .up = up.data() + r * kColumns,
                       .out = alone.data() + r * kColumns,
                       .num_rows = 1,
                       .num_columns = kColumns},
                      one),
              KernelError::kOk);
  }
  testing::ForEachTarget([&](const char* target) {
    for (const int num_rows : {1, 5, 64, 65, 256, 2048}) {
      const int64_t first = (2048 - num_rows) * int64_t{kColumns};
      std::vector<float> out(gate.begin() + first, gate.end());
      ASSERT_EQ(SiluMul({.gate = out.data(),
                         .up = up.data() + first,
                         .out = out.data(),
                         .gate_stride = kColumns,
                         .up_stride = kColumns,
                         .out_stride = kColumns,
                         .num_rows = num_rows,
                         .num_columns = kColumns},
                        three),
                KernelError::kOk);
      EXPECT_EQ(CompareBits(out, std::span(alone).last(out.size())), "") << target << " rows " << num_rows;
    }
  });
}

TEST(SiluMul, PassesNanThrough) {
  ThreadPool pool(1);
  std::vector<float> gate(20, 1.0f), up(20, 1.0f), out(20);
  gate[3] = gate[19] = NAN;
  ASSERT_EQ(SiluMul({.gate = gate.data(), .up = up.data(), .out = out.data(), .num_rows = 1, .num_columns = 20}, pool),
            KernelError::kOk);
  EXPECT_TRUE(std::isnan(out[3]) && std::isnan(out[19]));
  EXPECT_FALSE(std::isnan(out[4]));
}

}  // namespace
}  // namespace outrider::kernels
