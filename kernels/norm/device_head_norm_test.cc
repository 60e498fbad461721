#include "kernels/norm/device_head_norm.h"

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
using testing::RoundedToBf16;
using testing::ToBf16;

std::vector<uint16_t> Normed(const std::vector<float>& x, int num_rows, int64_t stride, int q_heads, int k_heads,
                             int head_dim, const std::vector<float>& q_weight, const std::vector<float>& k_weight) {
  DeviceBuffer<uint16_t> device_x(ToBf16(x));
  const DeviceBuffer<float> q(q_weight), k(k_weight);
  EXPECT_EQ(DeviceHeadNorm({.qk = device_x.data(),
                            .stride = stride,
                            .num_rows = num_rows,
                            .num_q_heads = q_heads,
                            .num_k_heads = k_heads,
                            .head_dim = head_dim,
                            .q_weight = q.data(),
                            .k_weight = k.data()},
                           nullptr),
            KernelError::kOk);
  return device_x.Download();
}

TEST(DeviceHeadNorm, AgreesWithReferenceAndLeavesTheRest) {
  const uint64_t seed = testing::TestSeed(71);
  constexpr int kRows = 7;
  for (const int head_dim : {16, 32, 64, 128}) {
    for (const auto& [q_heads, k_heads] : {std::pair{4, 2}, {9, 3}, {32, 8}}) {
      const int64_t stride = (q_heads + 2 * k_heads) * head_dim;
      const std::vector<float> x = RoundedToBf16(RandomTensor(kRows * stride, seed, {.num_outliers = 9}));
      const std::vector<float> q_weight = RandomTensor(head_dim, seed + 1), k_weight = RandomTensor(head_dim, seed + 2);
      std::vector<float> expected = x;
      const int64_t q_size = int64_t{q_heads} * head_dim;
      for (const bool is_q : {true, false}) {
        float* const at = expected.data() + (is_q ? 0 : q_size);
        ASSERT_EQ(RmsNormReference({.x = at,
                                    .weight = (is_q ? q_weight : k_weight).data(),
                                    .out = at,
                                    .x_stride = stride,
                                    .out_stride = stride,
                                    .num_rows = kRows,
                                    .num_groups = is_q ? q_heads : k_heads,
                                    .group_size = head_dim}),
                  KernelError::kOk);
      }
      const std::vector<float> actual =
          testing::FromBf16(Normed(x, kRows, stride, q_heads, k_heads, head_dim, q_weight, k_weight));
      for (size_t i = 0; i < expected.size(); ++i) {
        const bool is_value = static_cast<int64_t>(i) % stride >= q_size + int64_t{k_heads} * head_dim;
        // bf16, and fp32: the sum's error halved by the root, and some more roundings.
        const double tolerance =
            is_value ? 0.0 : testing::kBf16Roundoff + (head_dim / 64.0 + 24) * testing::kUnitRoundoff;
        ASSERT_NEAR(actual[i], expected[i], tolerance * std::fabs(expected[i]) + (is_value ? 0 : 1e-38)) << i;
      }
    }
  }
}

TEST(DeviceHeadNorm, BitsOfARowDoNotDependOnItsNeighbours) {
  constexpr int kRows = 300, kHeadDim = 64, kStride = 8 * kHeadDim;
  const std::vector<float> x = RandomTensor(kRows * kStride, testing::TestSeed(72), {.num_outliers = 50});
  const std::vector<float> weight = RandomTensor(kHeadDim, 3);
  const std::vector<uint16_t> all = Normed(x, kRows, kStride, 4, 2, kHeadDim, weight, weight);
  for (const int num_rows : {1, 5, 64, 65}) {
    const std::vector<float> last(x.end() - num_rows * kStride, x.end());
    const std::vector<uint16_t> some = Normed(last, num_rows, kStride, 4, 2, kHeadDim, weight, weight);
    EXPECT_TRUE(std::equal(some.begin(), some.end(), all.end() - static_cast<ptrdiff_t>(some.size()))) << num_rows;
  }
}

}  // namespace
}  // namespace outrider::kernels
