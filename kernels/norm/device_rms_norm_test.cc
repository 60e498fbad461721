#include "kernels/norm/device_rms_norm.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/testing/device_buffer.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/tensor_compare.h"

namespace outrider::kernels {
namespace {

using testing::DeviceBuffer;
using testing::RandomTensor;

TEST(DeviceRmsNorm, AgreesWithReferenceAndPicksRows) {
  const uint64_t seed = testing::TestSeed(61);
  for (const int size : {4, 32, 576, 4096, 5120}) {
    SCOPED_TRACE(size);
    constexpr int kRows = 9;
    const int64_t stride = size + 8;
    const auto x = RandomTensor(kRows * stride, seed, {.num_outliers = 4});
    const auto weight = RandomTensor(size, seed + 1);
    const std::vector<int32_t> rows = {8, 0, 3};
    std::vector<float> expected(x.size());
    ASSERT_EQ(RmsNormReference({.x = x.data(),
                                .weight = weight.data(),
                                .out = expected.data(),
                                .x_stride = stride,
                                .out_stride = stride,
                                .num_rows = kRows,
                                .group_size = size}),
              KernelError::kOk);
    const DeviceBuffer<float> device_x(x), device_weight(weight);
    const DeviceBuffer<int32_t> device_rows(rows);
    const auto run = [&](const int32_t* row_indices, int num_rows) {
      DeviceBuffer<uint16_t> out(num_rows * stride);
      EXPECT_EQ(DeviceRmsNorm({.x = device_x.data(),
                               .row_indices = row_indices,
                               .weight = device_weight.data(),
                               .out = out.data(),
                               .x_stride = stride,
                               .out_stride = stride,
                               .num_rows = num_rows,
                               .size = size},
                              nullptr),
                KernelError::kOk);
      return testing::FromBf16(out.Download());
    };
    const std::vector<float> all = run(nullptr, kRows), picked = run(device_rows.data(), 3);
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < size; ++i) {
        const double value = expected[r * stride + i];
        // bf16, and fp32: the sum's error halved by the root, and seven more roundings.
        EXPECT_NEAR(all[r * stride + i], value,
                    (testing::kBf16Roundoff + (size / 512.0 + 24) * testing::kUnitRoundoff) * std::fabs(value) + 1e-38);
      }
    }
    for (size_t r = 0; r < rows.size(); ++r) {
      for (int i = 0; i < size; ++i) EXPECT_EQ(picked[r * stride + i], all[rows[r] * stride + i]);
    }
  }
}

TEST(DeviceRmsNorm, BitsOfARowDoNotDependOnItsNeighbours) {
  constexpr int kSize = 576, kRows = 2048;
  const DeviceBuffer<float> x(RandomTensor(kRows * kSize, testing::TestSeed(62), {.num_outliers = 100}));
  const DeviceBuffer<float> weight(RandomTensor(kSize, 3));
  const auto run = [&](int num_rows) {
    DeviceBuffer<uint16_t> out(num_rows * kSize);
    EXPECT_EQ(DeviceRmsNorm({.x = x.data() + (kRows - num_rows) * kSize,
                             .weight = weight.data(),
                             .out = out.data(),
                             .x_stride = kSize,
                             .out_stride = kSize,
                             .num_rows = num_rows,
                             .size = kSize},
                            nullptr),
              KernelError::kOk);
    return out.Download();
  };
  const std::vector<uint16_t> all = run(kRows);
  for (const int num_rows : {1, 5, 64, 65, 256}) {
    const std::vector<uint16_t> some = run(num_rows);
    EXPECT_TRUE(std::equal(some.begin(), some.end(), all.end() - static_cast<ptrdiff_t>(some.size()))) << num_rows;
  }
}

}  // namespace
}  // namespace outrider::kernels
