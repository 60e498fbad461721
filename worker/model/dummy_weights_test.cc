#include "worker/model/dummy_weights.h"

#include <cmath>
#include <cstring>

#include "gtest/gtest.h"
#include "kernels/common/dtype.h"

namespace outrider {
namespace {

std::vector<float> Numbers(const std::byte* data, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  EXPECT_EQ(kernels::DequantizeRow(kernels::DType::kBF16, data, count, values.data()), kernels::KernelError::kOk);
  return values;
}

TEST(DummyWeights, HaveTheDeviationThatWasAskedFor) {
  const auto weights = DummyWeights::Create(1, 0.02f, 1 << 20);
  ASSERT_TRUE(weights.ok()) << weights.status();
  double sum = 0, squares = 0;
  const auto values = Numbers((*weights)->Tensor(7), 1 << 19);
  for (const float value : values) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const double count = static_cast<double>(values.size());
  // Five standard errors: 0.02 / sqrt(2^19), and for the deviation of a uniform number less than that.
  EXPECT_NEAR(sum / count, 0, 5 * 0.02 / std::sqrt(count));
  EXPECT_NEAR(std::sqrt(squares / count), 0.02, 5 * 0.02 / std::sqrt(count));
}

TEST(DummyWeights, AreAFunctionOfSeedAndKey) {
  const auto one = DummyWeights::Create(1, 0.02f, 4096), again = DummyWeights::Create(1, 0.02f, 1 << 30),
             other = DummyWeights::Create(2, 0.02f, 4096);
  ASSERT_TRUE(one.ok() && again.ok() && other.ok());
  EXPECT_EQ(std::memcmp((*one)->Tensor(5), (*again)->Tensor(5), 4096), 0);
  EXPECT_NE(std::memcmp((*one)->Tensor(5), (*one)->Tensor(6), 4096), 0);
  EXPECT_NE(std::memcmp((*one)->Tensor(5), (*other)->Tensor(5), 4096), 0);
}

TEST(DummyWeights, ATensorOfAnySizeCanBeReadToItsEnd) {
  constexpr int64_t kBytes = 5 * DummyWeights::kPeriodBytes / 2;
  const auto weights = DummyWeights::Create(3, 0.02f, kBytes);
  ASSERT_TRUE(weights.ok()) << weights.status();
  for (uint64_t key = 0; key < 50; ++key) {
    const std::byte* const tensor = (*weights)->Tensor(key);
    EXPECT_EQ(std::memcmp(tensor + kBytes - 64, tensor + kBytes - 64 - 2 * DummyWeights::kPeriodBytes, 64), 0);
  }
}

}  // namespace
}  // namespace outrider
