#include "kernels/common/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace outrider::kernels {
namespace {

// The textbook formula, by exponent and mantissa.
double F16Value(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  return exponent == 0 ? sign * std::ldexp(mantissa, -24) : sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(F16, EveryFiniteValueConvertsExactlyAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7c00) == 0x7c00) continue;
    const float value = F16ToF32(static_cast<uint16_t>(bits));
    ASSERT_EQ(static_cast<double>(value), F16Value(static_cast<uint16_t>(bits))) << bits;
    ASSERT_EQ(F32ToF16(value), bits);
  }
}

TEST(F16, RoundsToNearestEvenBetweenAnyTwoNeighbours) {
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = F16ToF32(bits), high = F16ToF32(bits + 1);
    const float middle = (low + high) / 2;  // exact in fp32
    ASSERT_EQ(F32ToF16(middle), bits % 2 == 0 ? bits : bits + 1) << bits;
    ASSERT_EQ(F32ToF16(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(F32ToF16(std::nextafter(middle, 1e9f)), bits + 1);
  }
}

TEST(F16, KeepsInfinitiesAndNaNs) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(F32ToF16(infinity), 0x7c00);
  EXPECT_EQ(F32ToF16(-infinity), 0xfc00);
  EXPECT_EQ(F32ToF16(65519.996f), 0x7bff);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);
  EXPECT_EQ(F32ToF16(-1e30f), 0xfc00);
  EXPECT_EQ(F16ToF32(0x7c00), infinity);
  EXPECT_TRUE(std::isnan(F16ToF32(0x7c01)));
  EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(BF16, RoundsToNearestEvenAndKeepsNaNs) {
  EXPECT_EQ(BF16ToF32(0x3f80), 1.0f);
  EXPECT_EQ(F32ToBF16(1.0f), 0x3f80);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // tie, even below
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3f818000u)), 0x3f82);  // tie, even above
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(F32ToBF16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(DequantizeRow, ReadsBlocksAsGgufLaysThemOut) {
  float out[64];
  // d = 0.5 (0x3800), q[i] = i - 16.
  uint8_t q8[34] = {0x00, 0x38};
  for (int i = 0; i < 32; ++i) q8[2 + i] = static_cast<uint8_t>(i - 16);
  ASSERT_EQ(DequantizeRow(DType::kQ8_0, q8, 32, out), KernelError::kOk);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out[i], 0.5f * (i - 16));

  // d = 2 (0x4000), low nibble i, high nibble 15 - i.
  uint8_t q4[20] = {0x00, 0x40};
  for (int i = 0; i < 16; ++i) q4[2 + i] = static_cast<uint8_t>(i | (15 - i) << 4);
  ASSERT_EQ(DequantizeRow(DType::kQ4_0, q4, 32, out), KernelError::kOk);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[i], 2.0f * (i - 8));
    EXPECT_EQ(out[16 + i], 2.0f * (7 - i));
  }

  // The same nibbles behind d = 2, m = -1 (0xbc00).
  uint8_t q41[20] = {0x00, 0x40, 0x00, 0xbc};
  std::memcpy(q41 + 4, q4 + 2, 16);
  ASSERT_EQ(DequantizeRow(DType::kQ4_1, q41, 32, out), KernelError::kOk);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[i], 2.0f * i - 1);
    EXPECT_EQ(out[16 + i], 2.0f * (15 - i) - 1);
  }
}

TEST(DequantizeRow, ReadsUnalignedFloats) {
  uint8_t bytes[9] = {};
  const float value = 3.25f;
  std::memcpy(bytes + 1, &value, 4);
  float out[2];
  ASSERT_EQ(DequantizeRow(DType::kF32, bytes + 1, 2, out), KernelError::kOk);
  EXPECT_EQ(out[0], 3.25f);
  const uint8_t halves[5] = {0, 0x00, 0x3c, 0x80, 0x3f};
  ASSERT_EQ(DequantizeRow(DType::kF16, halves + 1, 1, out), KernelError::kOk);
  EXPECT_EQ(out[0], 1.0f);
  ASSERT_EQ(DequantizeRow(DType::kBF16, halves + 3, 1, out), KernelError::kOk);
  EXPECT_EQ(out[0], 1.0f);
}

TEST(DequantizeRow, RefusesPartsOfBlocks) {
  float out[64];
  uint8_t row[40] = {};
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    EXPECT_EQ(DequantizeRow(dtype, row, 31, out), KernelError::kInvalidShape);
    EXPECT_EQ(DequantizeRow(dtype, row, -32, out), KernelError::kInvalidShape);
    EXPECT_EQ(DequantizeRow(dtype, row, 0, out), KernelError::kOk);
  }
}

// The largest rounding error of a block: half a step of its grid (a whole one at the open end of Q4_0), plus the
// rounding of scale and minimum to f16 (2^-11 relative, times the largest quant).
TEST(QuantizeRow, StaysWithinItsGrid) {
  std::vector<float> values(32 * 8);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(0.7f * i) * std::exp2(static_cast<float>(i / 32) - 4);
  values[40] = 0;
  std::fill(values.begin() + 64, values.begin() + 96, 0.0f);
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    std::vector<uint8_t> row(RowBytes(dtype, values.size()));
    std::vector<float> back(values.size());
    ASSERT_EQ(QuantizeRow(dtype, values.data(), values.size(), row.data()), KernelError::kOk);
    ASSERT_EQ(DequantizeRow(dtype, row.data(), values.size(), back.data()), KernelError::kOk);
    for (size_t i = 0; i < values.size(); ++i) {
      float max = 0, low = values[i / 32 * 32], high = low;
      for (size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j) {
        max = std::fmax(max, std::fabs(values[j]));
        low = std::fmin(low, values[j]);
        high = std::fmax(high, values[j]);
      }
      const float step = dtype == DType::kQ8_0 ? max / 127 / 2 : dtype == DType::kQ4_0 ? max / 8 : (high - low) / 30;
      ASSERT_LE(std::fabs(back[i] - values[i]), step * 1.001f + 3 * max * 0x1p-11f) << DTypeName(dtype) << " " << i;
    }
  }
}

TEST(DType, KnowsGgmlNumbers) {
  DType dtype;
  ASSERT_TRUE(DTypeFromGgml(3, &dtype));
  EXPECT_EQ(dtype, DType::kQ4_1);
  ASSERT_TRUE(DTypeFromGgml(30, &dtype));
  EXPECT_EQ(dtype, DType::kBF16);
  EXPECT_FALSE(DTypeFromGgml(12, &dtype));
  EXPECT_EQ(RowBytes(DType::kQ4_1, 576), 360);
  EXPECT_EQ(RowBytes(DType::kBF16, 3), 6);
}

}  // namespace
}  // namespace outrider::kernels
