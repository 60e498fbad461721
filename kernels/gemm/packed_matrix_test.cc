#include "kernels/gemm/packed_matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace outrider::kernels {
namespace {

constexpr DType kAllDTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1};

// Every byte pattern is a valid weight but for f16 and bf16 NaNs, so rows are made from values.
struct Source {
  Source(DType dtype, int64_t out_features, int64_t in_features)
      : bytes(out_features * RowBytes(dtype, in_features) + 1) {
    for (int64_t i = 0; i < out_features; ++i) {
      std::vector<float> row(in_features);
      for (int64_t k = 0; k < in_features; ++k) row[k] = std::sin(static_cast<float>(i * 131 + k * 7)) * (1 + i % 3);
      EXPECT_EQ(QuantizeRow(dtype, row.data(), in_features, Row(dtype, i, in_features)), KernelError::kOk);
    }
    matrix = {dtype, bytes.data() + 1, out_features, in_features};  // deliberately unaligned
  }
  uint8_t* Row(DType dtype, int64_t i, int64_t in_features) {
    return bytes.data() + 1 + i * RowBytes(dtype, in_features);
  }
  std::vector<uint8_t> bytes;
  MatrixSource matrix;
};

void ExpectHolds(const PackedMatrix& packed, const Source& source, IndexRange rows, IndexRange columns) {
  const MatrixSource& m = source.matrix;
  ASSERT_EQ(packed.out_features(), rows.size());
  ASSERT_EQ(packed.in_features(), columns.size());
  std::vector<float> expected(m.in_features), actual(columns.size());
  for (int64_t i = 0; i < rows.size(); ++i) {
    const uint8_t* row = static_cast<const uint8_t*>(m.data) + (rows.first + i) * RowBytes(m.dtype, m.in_features);
    ASSERT_EQ(DequantizeRow(m.dtype, row, m.in_features, expected.data()), KernelError::kOk);
    packed.UnpackRow(i, actual.data());
    ASSERT_EQ(std::memcmp(actual.data(), expected.data() + columns.first, columns.size() * 4), 0)
        << DTypeName(m.dtype) << " row " << i;
  }
}

TEST(PackedMatrix, HoldsTheSourceValueByValue) {
  for (const DType dtype : kAllDTypes) {
    for (const int64_t out_features : {1, 15, 16, 17, 48}) {
      for (const int64_t in_features : {32, 64, 96}) {
        const Source source(dtype, out_features, in_features);
        PackedMatrix packed;
        ASSERT_EQ(PackedMatrix::Pack(source.matrix, &packed), KernelError::kOk);
        EXPECT_EQ(packed.dtype(), dtype);
        ExpectHolds(packed, source, {0, out_features}, {0, in_features});
        EXPECT_EQ(reinterpret_cast<uintptr_t>(packed.group(0)) % 64, 0);
        EXPECT_EQ(packed.group_bytes() % 64, 0);
      }
    }
  }
}

TEST(PackedMatrix, HoldsAnyColumnCountOfFloatTypes) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int64_t in_features : {1, 3, 33, 100}) {
      const Source source(dtype, 19, in_features);
      PackedMatrix packed;
      ASSERT_EQ(PackedMatrix::Pack(source.matrix, &packed), KernelError::kOk);
      ExpectHolds(packed, source, {0, 19}, {0, in_features});
    }
  }
}

TEST(PackedMatrix, HoldsShards) {
  for (const DType dtype : kAllDTypes) {
    const Source source(dtype, 50, 192);
    PackedMatrix packed;
    for (const IndexRange rows : {IndexRange{0, 25}, IndexRange{25, 50}, IndexRange{7, 8}}) {
      for (const IndexRange columns : {IndexRange{0, 96}, IndexRange{96, 192}, IndexRange{32, 64}}) {
        ASSERT_EQ(PackedMatrix::Pack(source.matrix, rows, columns, {}, &packed), KernelError::kOk);
        ExpectHolds(packed, source, rows, columns);
      }
    }
  }
}

TEST(PackedMatrix, CutsThroughBlocksOnlyAsF32) {
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    const Source source(dtype, 20, 96);
    PackedMatrix packed;
    for (const IndexRange columns : {IndexRange{0, 48}, IndexRange{48, 96}, IndexRange{33, 34}, IndexRange{1, 96}}) {
      EXPECT_EQ(PackedMatrix::Pack(source.matrix, {0, 20}, columns, {}, &packed), KernelError::kUnalignedSlice);
      EXPECT_TRUE(packed.empty());
      ASSERT_EQ(PackedMatrix::Pack(source.matrix, {3, 20}, columns, {.as_f32 = true}, &packed), KernelError::kOk);
      EXPECT_EQ(packed.dtype(), DType::kF32);
      ExpectHolds(packed, source, {3, 20}, columns);
    }
  }
}

TEST(PackedMatrix, RefusesWhatIsNotThere) {
  const Source source(DType::kQ4_1, 20, 96);
  PackedMatrix packed;
  for (const IndexRange bad : {IndexRange{-1, 5}, IndexRange{5, 4}, IndexRange{0, 97}}) {
    EXPECT_EQ(PackedMatrix::Pack(source.matrix, bad, {0, 96}, {}, &packed), KernelError::kInvalidShape);
    EXPECT_EQ(PackedMatrix::Pack(source.matrix, {0, 20}, bad, {}, &packed), KernelError::kInvalidShape);
  }
  EXPECT_EQ(PackedMatrix::Pack({DType::kQ4_1, source.matrix.data, 20, 95}, &packed), KernelError::kInvalidShape);
  EXPECT_EQ(PackedMatrix::Pack({DType::kQ4_1, source.matrix.data, -1, 96}, &packed), KernelError::kInvalidShape);
  EXPECT_EQ(PackedMatrix::Pack({DType::kQ4_1, nullptr, 20, 96}, &packed), KernelError::kNullPointer);
  EXPECT_EQ(PackedMatrix::Pack({static_cast<DType>(99), source.matrix.data, 20, 96}, &packed),
            KernelError::kUnsupportedDType);
}

TEST(PackedMatrix, EmptySlicesNeedNoData) {
  PackedMatrix packed;
  ASSERT_EQ(PackedMatrix::Pack({DType::kQ8_0, nullptr, 0, 64}, &packed), KernelError::kOk);
  EXPECT_TRUE(packed.empty());
  EXPECT_EQ(packed.in_features(), 64);
  ASSERT_EQ(PackedMatrix::Pack({DType::kF32, nullptr, 8, 0}, &packed), KernelError::kOk);
  EXPECT_TRUE(packed.empty());
  EXPECT_EQ(packed.out_features(), 8);
}

TEST(PackedMatrix, MovesLeaveTheOldOneEmpty) {
  const Source source(DType::kQ8_0, 20, 64);
  PackedMatrix first;
  ASSERT_EQ(PackedMatrix::Pack(source.matrix, &first), KernelError::kOk);
  PackedMatrix second(std::move(first));
  ExpectHolds(second, source, {0, 20}, {0, 64});
  EXPECT_TRUE(first.empty());
}

TEST(WeightArena, HoldsManyMatricesAndLargeOnes) {
  WeightArena arena;
  const Source small(DType::kQ4_1, 33, 64);
  std::vector<PackedMatrix> matrices(100);
  for (PackedMatrix& m : matrices) {
    ASSERT_EQ(PackedMatrix::Pack(small.matrix, {0, 33}, {0, 64}, {.arena = &arena}, &m), KernelError::kOk);
  }
  std::byte* large = arena.Allocate(int64_t{65} << 20);  // more than a chunk
  ASSERT_NE(large, nullptr);
  EXPECT_EQ(std::to_integer<int>(large[(65 << 20) - 1]), 0);
  ExpectHolds(matrices[0], small, {0, 33}, {0, 64});
  ExpectHolds(matrices[99], small, {0, 33}, {0, 64});
  EXPECT_EQ(arena.allocated_bytes(), 100 * matrices[0].packed_bytes() + (int64_t{65} << 20));
  EXPECT_EQ(arena.Allocate(int64_t{1} << 62), nullptr);
  EXPECT_EQ(arena.Allocate(-1), nullptr);
}

}  // namespace
}  // namespace outrider::kernels
