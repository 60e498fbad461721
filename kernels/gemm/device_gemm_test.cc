#include "kernels/gemm/device_gemm.h"

#include <cmath>
#include <cstring>
#include <ostream>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/norm/device_rms_norm.h"
#include "kernels/testing/device_buffer.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/tensor_compare.h"

namespace outrider::kernels {
namespace {

using testing::CompareTensors;
using testing::DeviceBuffer;
using testing::RandomTensor;
using testing::RoundedToBf16;
using testing::ToBf16;

struct Way {
  DeviceMatMulKernel kernel;
  DeviceTiling tiling = DeviceTiling::kAuto;
  int rows_max = 1 << 20;
};
std::ostream& operator<<(std::ostream& out, const Way& way) {
  return out << "kernel " << static_cast<int>(way.kernel) << " tiling " << static_cast<int>(way.tiling);
}
constexpr Way kAll[] = {{DeviceMatMulKernel::kStreaming},
                        {DeviceMatMulKernel::kClustered},
                        {DeviceMatMulKernel::kTiled, DeviceTiling::kRuns32, 32},
                        {DeviceMatMulKernel::kTiled, DeviceTiling::kRuns64, 64},
                        {DeviceMatMulKernel::kTiled, DeviceTiling::kHalves64},
                        {DeviceMatMulKernel::kTiled, DeviceTiling::kHalves128},
                        {DeviceMatMulKernel::kTiled, DeviceTiling::kPairs128},
                        {DeviceMatMulKernel::kTiled, DeviceTiling::kPairs176},
                        {DeviceMatMulKernel::kTiled, DeviceTiling::kPairs192},
                        {DeviceMatMulKernel::kAuto}};

KernelError Multiply(const Way& way, const DeviceMatMulArgs& args) {
  return DeviceMatMulWith(way.kernel, args, nullptr, way.tiling);
}

int64_t PaddedColumns(int64_t columns) { return (columns + 63) / 64 * 64; }

// Weights on the device and on the host.
struct Weights {
  Weights(int64_t features, int64_t columns, uint64_t seed, bool interleave = false)
      : values(RoundedToBf16(RandomTensor(features * columns, seed, {.num_outliers = 8}))),
        matrix{.out_features = features, .in_features = columns},
        memory(matrix.bytes()) {
    matrix.data = memory.data();
    memory.Zero();
    const DeviceBuffer<uint16_t> rows(ToBf16(values));
    const int64_t half = features / 2;
    if (interleave) {
      Pack({.rows = rows.data(), .num_rows = half, .interleave = true, .matrix = matrix});
      Pack({.rows = rows.data() + half * columns,
            .num_rows = half,
            .interleave = true,
            .interleave_second = true,
            .matrix = matrix});
    } else {
      // In two calls, as a loader does it.
      const int64_t first = features / 3;
      Pack({.rows = rows.data(), .num_rows = first, .matrix = matrix});
      Pack({.rows = rows.data() + first * columns,
            .num_rows = features - first,
            .first_feature = first,
            .matrix = matrix});
    }
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  static void Pack(const PackDeviceMatrixArgs& args) { ASSERT_EQ(PackDeviceMatrix(args, nullptr), KernelError::kOk); }

  std::vector<float> values;  // [features, columns], bf16 exactly
  DeviceMatrix matrix;
  DeviceBuffer<uint8_t> memory;
};

// Rows on the device, columns padded with zeros.
struct Rows {
  Rows(int64_t num_rows, int64_t columns, uint64_t seed)
      : stride(PaddedColumns(columns) + 8),
        values(RoundedToBf16(RandomTensor(num_rows * columns, seed, {.num_outliers = 8}))),
        memory(Padded(num_rows, columns)) {}
  std::vector<uint16_t> Padded(int64_t num_rows, int64_t columns) const {
    std::vector<uint16_t> bits(static_cast<size_t>(num_rows * stride));
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t k = 0; k < columns; ++k) bits[r * stride + k] = F32ToBF16(values[r * columns + k]);
    }
    return bits;
  }
  int64_t stride;
  std::vector<float> values;
  DeviceBuffer<uint16_t> memory;
};

// Exact products in double, and the bound on what fp32 sums of them may differ by.
void Reference(const Weights& w, const Rows& x, int64_t num_rows, std::vector<double>* sums,
               std::vector<double>* bounds) {
  const int64_t features = w.matrix.out_features, columns = w.matrix.in_features;
  sums->assign(num_rows * features, 0);
  bounds->assign(num_rows * features, 0);
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t n = 0; n < features; ++n) {
      double sum = 0, magnitudes = 0;
      for (int64_t k = 0; k < columns; ++k) {
        const double product = double{x.values[r * columns + k]} * w.values[n * columns + k];
        sum += product;
        magnitudes += std::fabs(product);
      }
      (*sums)[r * features + n] = sum;
      // Tensor cores align the products of a step to the largest and cut off below 2^-24 of it, so a term may lose a
      // whole unit where rounding loses half of one.
      (*bounds)[r * features + n] = 2 * testing::DotErrorBound(columns, magnitudes);
    }
  }
}

TEST(DeviceMatMul, AgreesWithTheExactProductInEveryKernel) {
  const uint64_t seed = testing::TestSeed(41);
  struct Shape {
    int rows, features, columns;
  };
  for (const Shape shape : {Shape{1, 16, 64},
                            {3, 40, 32},
                            {8, 960, 576},
                            {9, 49, 100},
                            {17, 128, 512},
                            {33, 576, 1536},
                            {64, 272, 4096},
                            {130, 200, 1088}}) {
    const Weights w(shape.features, shape.columns, seed);
    const Rows x(shape.rows, shape.columns, seed + 1);
    const std::vector<float> bias = RandomTensor(shape.features, seed + 2);
    const DeviceBuffer<float> device_bias(bias);
    std::vector<double> sums, bounds;
    Reference(w, x, shape.rows, &sums, &bounds);
    const int64_t stride = (shape.features + 7) / 8 * 8 + 8;
    for (const Way& way : kAll) {
      if (shape.rows > way.rows_max) continue;
      SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.features << " x " << shape.columns << ", "
                                        << way);
      const auto check = [&](const std::vector<float>& out, int64_t out_stride, double output_roundoff,
                             const std::vector<float>& before) {
        std::vector<float> actual, expected;
        std::vector<double> tolerance;
        for (int r = 0; r < shape.rows; ++r) {
          for (int n = 0; n < shape.features; ++n) {
            const double exact =
                sums[r * shape.features + n] + bias[n] + (before.empty() ? 0 : before[r * out_stride + n]);
            actual.push_back(out[r * out_stride + n]);
            expected.push_back(static_cast<float>(exact));
            tolerance.push_back(bounds[r * shape.features + n] +
                                (output_roundoff + 4 * testing::kUnitRoundoff) *
                                    (std::fabs(exact) + std::fabs(sums[r * shape.features + n]) + std::fabs(bias[n])));
          }
        }
        EXPECT_EQ(CompareTensors(actual, expected, tolerance), "");
      };
      DeviceMatMulArgs args{.w = w.matrix,
                            .x = x.memory.data(),
                            .x_stride = x.stride,
                            .num_rows = shape.rows,
                            .out_stride = stride,
                            .bias = device_bias.data()};
      DeviceBuffer<uint16_t> bf16_out(shape.rows * stride);
      args.out = bf16_out.data();
      args.epilogue = DeviceEpilogue::kStoreBf16;
      ASSERT_EQ(Multiply(way, args), KernelError::kOk);
      check(testing::FromBf16(bf16_out.Download()), stride, testing::kBf16Roundoff, {});

      DeviceBuffer<float> f32_out(shape.rows * stride);
      args.out = f32_out.data();
      args.epilogue = DeviceEpilogue::kStoreF32;
      ASSERT_EQ(Multiply(way, args), KernelError::kOk);
      const std::vector<float> stored = f32_out.Download();
      check(stored, stride, 0, {});
      // What lies between rows is not touched.
      for (int r = 0; r < shape.rows; ++r) {
        for (int64_t n = shape.features; n < stride; ++n) EXPECT_TRUE(std::isnan(stored[r * stride + n]));
      }

      const std::vector<float> before = RandomTensor(shape.rows * stride, seed + 3);
      DeviceBuffer<float> residual(before);
      args.out = residual.data();
      args.epilogue = DeviceEpilogue::kAddF32;
      ASSERT_EQ(Multiply(way, args), KernelError::kOk);
      check(residual.Download(), stride, 0, before);
    }
  }
}

TEST(DeviceMatMul, GatesOneHalfByTheOther) {
  const uint64_t seed = testing::TestSeed(42);
  constexpr int kRows = 37, kHalf = 96, kColumns = 576;
  const Weights w(2 * kHalf, kColumns, seed, /*interleave=*/true);
  const Rows x(kRows, kColumns, seed + 1);
  std::vector<double> sums, bounds;
  Reference(w, x, kRows, &sums, &bounds);
  for (const Way& way : kAll) {
    if (kRows > way.rows_max) continue;
    SCOPED_TRACE(::testing::Message() << way);
    DeviceBuffer<uint16_t> out(kRows * kHalf);
    ASSERT_EQ(Multiply(way, {.w = w.matrix,
                             .x = x.memory.data(),
                             .x_stride = x.stride,
                             .num_rows = kRows,
                             .out = out.data(),
                             .out_stride = kHalf,
                             .epilogue = DeviceEpilogue::kSiluMul}),
              KernelError::kOk);
    const std::vector<float> actual = testing::FromBf16(out.Download());
    std::vector<float> expected;
    std::vector<double> tolerance;
    for (int r = 0; r < kRows; ++r) {
      for (int n = 0; n < kHalf; ++n) {
        const double gate = sums[r * 2 * kHalf + n], up = sums[r * 2 * kHalf + kHalf + n];
        const double gate_bound = bounds[r * 2 * kHalf + n], up_bound = bounds[r * 2 * kHalf + kHalf + n];
        const double silu = gate / (1 + std::exp(-gate));
        expected.push_back(static_cast<float>(silu * up));
        // |silu'| <= 1.1. The exponential: 2^-21 relative, and its argument's rounding |gate| * 2^-24; in silu at most
        // once each. Then the rounding to bf16, and what underflows below its smallest normal.
        const double silu_error =
            1.1 * gate_bound + std::fabs(silu) * (0x1.0p-20 + 2 * std::fabs(gate) * 0x1.0p-24) + 1e-30;
        tolerance.push_back(silu_error * (std::fabs(up) + up_bound) + std::fabs(silu) * up_bound +
                            testing::kBf16Roundoff * std::fabs(silu * up) + 1e-38);
      }
    }
    EXPECT_EQ(CompareTensors(actual, expected, tolerance), "");
  }
}

TEST(DeviceMatMul, BitsOfARowDoNotDependOnRowsNeighboursOrKernel) {
  const uint64_t seed = testing::TestSeed(43);
  struct Shape {
    int features, columns;
  };
  for (const Shape shape : {Shape{960, 576}, {576, 1536}, {6144, 4096}, {1024, 14336}, {80, 32}, {34000, 192}}) {
    SCOPED_TRACE(::testing::Message() << shape.features << " x " << shape.columns);
    constexpr int kRows = 2048;
    const Weights w(shape.features, shape.columns, seed);
    const Rows x(kRows, shape.columns, seed + 1);
    const int64_t stride = shape.features;
    const auto run = [&](const Way& way, int first, int rows) {
      DeviceBuffer<float> out(rows * stride);
      EXPECT_EQ(Multiply(way, {.w = w.matrix,
                               .x = x.memory.data() + first * x.stride,
                               .x_stride = x.stride,
                               .num_rows = rows,
                               .out = out.data(),
                               .out_stride = stride,
                               .epilogue = DeviceEpilogue::kStoreF32}),
                KernelError::kOk);
      return out.Download();
    };
    const std::vector<float> all = run({DeviceMatMulKernel::kTiled}, 0, kRows);
    for (const Way& way : kAll) {
      for (const int rows : {1, 2, 5, 8, 13, 16, 32, 64, 65, 128, 200, 256, kRows}) {
        if (rows > way.rows_max) continue;
        // The last rows, so that their index differs too.
        const std::vector<float> some = run(way, kRows - rows, rows);
        int64_t different = 0;
        for (size_t i = 0; i < some.size(); ++i) {
          different += std::memcmp(&some[i], &all[all.size() - some.size() + i], sizeof(float)) != 0;
        }
        EXPECT_EQ(different, 0) << "of " << some.size() << " outputs, " << rows << " rows, " << way;
      }
    }
  }
}

TEST(DeviceMatMul, ARowThatIsNotFiniteLeavesItsNeighboursAlone) {
  constexpr int kRows = 70, kFeatures = 64, kColumns = 128;
  const Weights w(kFeatures, kColumns, 1);
  const Rows x(kRows, kColumns, 2);
  std::vector<uint16_t> bits = x.memory.Download();
  for (int k = 0; k < kColumns; ++k) bits[3 * x.stride + k] = 0x7FC0;
  const DeviceBuffer<uint16_t> with_nan(bits);
  for (const Way& way : kAll) {
    if (kRows > way.rows_max) continue;
    const auto run = [&](const uint16_t* rows) {
      DeviceBuffer<float> out(kRows * kFeatures);
      EXPECT_EQ(Multiply(way, {.w = w.matrix,
                               .x = rows,
                               .x_stride = x.stride,
                               .num_rows = kRows,
                               .out = out.data(),
                               .out_stride = kFeatures,
                               .epilogue = DeviceEpilogue::kStoreF32}),
                KernelError::kOk);
      return out.Download();
    };
    const std::vector<float> clean = run(x.memory.data()), dirty = run(with_nan.data());
    for (int r = 0; r < kRows; ++r) {
      for (int n = 0; n < kFeatures; ++n) {
        if (r == 3) {
          EXPECT_TRUE(std::isnan(dirty[r * kFeatures + n]));
        } else {
          EXPECT_EQ(clean[r * kFeatures + n], dirty[r * kFeatures + n]);
        }
      }
    }
  }
}

struct NormedCase {
  int64_t features, columns;
  int num_rows;
  DeviceEpilogue epilogue;
  bool indexed = false, bias = false;
};

// Products of rows that they norm themselves, and of rows that DeviceRmsNorm has normed, as bytes.
void MultiplyNormed(const NormedCase& c, bool within, float epsilon, std::vector<uint8_t>* out) {
  constexpr int kHiddenRows = 9;
  const bool gated = c.epilogue == DeviceEpilogue::kSiluMul;
  const bool f32 = c.epilogue == DeviceEpilogue::kStoreF32 || c.epilogue == DeviceEpilogue::kAddF32;
  const Weights w(c.features, c.columns, 1, gated);
  const int64_t hidden_stride = c.columns + 8, stride = PaddedColumns(c.columns);
  const DeviceBuffer<float> hidden(RandomTensor(kHiddenRows * hidden_stride, 2, {.num_outliers = 16}));
  const DeviceBuffer<float> weight(RandomTensor(c.columns, 3, {.num_outliers = 2}));
  const DeviceBuffer<float> bias(RandomTensor(c.features, 4, {}));
  const DeviceBuffer<int32_t> indices(std::vector<int32_t>{7, 0, 8, 3});
  const int64_t out_stride = ((gated ? c.features / 2 : c.features) + 15) / 8 * 8;
  DeviceBuffer<uint8_t> results(c.num_rows * out_stride * (f32 ? 4 : 2));
  results.Zero();
  DeviceMatMulArgs args{.w = w.matrix,
                        .num_rows = c.num_rows,
                        .out = results.data(),
                        .out_stride = out_stride,
                        .bias = c.bias ? bias.data() : nullptr,
                        .epilogue = c.epilogue};
  DeviceBuffer<uint16_t> normed(c.num_rows * stride);
  normed.Zero();
  const int32_t* const row_indices = c.indexed ? indices.data() : nullptr;
  if (within) {
    args.norm = {.x = hidden.data(),
                 .row_indices = row_indices,
                 .weight = weight.data(),
                 .x_stride = hidden_stride,
                 .epsilon = epsilon};
  } else {
    ASSERT_EQ(DeviceRmsNorm({.x = hidden.data(),
                             .row_indices = row_indices,
                             .weight = weight.data(),
                             .out = normed.data(),
                             .x_stride = hidden_stride,
                             .out_stride = stride,
                             .num_rows = c.num_rows,
                             .size = static_cast<int>(c.columns),
                             .epsilon = epsilon},
                            nullptr),
              KernelError::kOk);
    args.x = normed.data();
    args.x_stride = stride;
  }
  ASSERT_EQ(DeviceMatMul(args, nullptr), KernelError::kOk);
  *out = results.Download();
}

TEST(DeviceMatMul, NormsFewRowsToTheBitOfDeviceRmsNorm) {
  // Models of 8B, 1B, 70B, Qwen3-14B and 135M, and columns that fill no chunk.
  for (const NormedCase& c : {NormedCase{6144, 4096, 1, DeviceEpilogue::kStoreBf16},
                              {6144, 4096, 2, DeviceEpilogue::kStoreBf16, false, true},
                              {28672, 4096, 2, DeviceEpilogue::kSiluMul},
                              {16384, 2048, 2, DeviceEpilogue::kSiluMul},
                              {1024, 8192, 1, DeviceEpilogue::kStoreF32, true},
                              {512, 5120, 2, DeviceEpilogue::kAddF32},
                              {2051, 2048, 2, DeviceEpilogue::kStoreF32, true, true},
                              {960, 576, 2, DeviceEpilogue::kStoreBf16, true},
                              {48, 100, 2, DeviceEpilogue::kStoreF32},
                              {16, 8, 1, DeviceEpilogue::kStoreBf16}}) {
    SCOPED_TRACE(::testing::Message() << c.features << " x " << c.columns << ", rows " << c.num_rows);
    ASSERT_TRUE(NormsRows({.out_features = c.features, .in_features = c.columns}, c.num_rows));
    std::vector<uint8_t> within, apart, other;
    MultiplyNormed(c, true, 1e-5f, &within);
    MultiplyNormed(c, false, 1e-5f, &apart);
    EXPECT_EQ(within, apart);
    // This comparison sees a norm that differs.
    MultiplyNormed(c, false, 1e-2f, &other);
    EXPECT_NE(within, other);
  }
}

TEST(DeviceMatMul, RefusesToNormRowsThatDoNotFit) {
  EXPECT_FALSE(NormsRows({.out_features = 32, .in_features = 64}, 3));
  EXPECT_FALSE(NormsRows({.out_features = 32, .in_features = 8192}, 2));
  EXPECT_FALSE(NormsRows({.out_features = 32, .in_features = 66}, 1));
  const Weights w(32, 64, 1);
  DeviceBuffer<float> hidden(5 * 64), weight(64);
  DeviceBuffer<uint16_t> out(5 * 32);
  const DeviceMatMulArgs good{.w = w.matrix,
                              .norm = {.x = hidden.data(), .weight = weight.data(), .x_stride = 64},
                              .num_rows = 1,
                              .out = out.data(),
                              .out_stride = 32};
  EXPECT_EQ(DeviceMatMul(good, nullptr), KernelError::kOk);
  DeviceMatMulArgs args = good;
  args.num_rows = 3;
  EXPECT_EQ(DeviceMatMul(args, nullptr), KernelError::kInvalidShape);
  args = good;
  args.norm.x_stride = 60;
  EXPECT_EQ(DeviceMatMul(args, nullptr), KernelError::kInvalidShape);
  EXPECT_EQ(DeviceMatMulWith(DeviceMatMulKernel::kTiled, good, nullptr), KernelError::kInvalidShape);
  args = good;
  args.norm.weight = nullptr;
  EXPECT_EQ(DeviceMatMul(args, nullptr), KernelError::kNullPointer);
}

TEST(DeviceMatMul, RefusesShapesThatDoNotFit) {
  const Weights w(32, 64, 1);
  DeviceBuffer<uint16_t> x(64), out(32);
  const DeviceMatMulArgs good{
      .w = w.matrix, .x = x.data(), .x_stride = 64, .num_rows = 1, .out = out.data(), .out_stride = 32};
  DeviceMatMulArgs args = good;
  args.num_rows = -1;
  EXPECT_EQ(DeviceMatMul(args, nullptr), KernelError::kInvalidShape);
  args = good;
  args.x_stride = 56;
  EXPECT_EQ(DeviceMatMul(args, nullptr), KernelError::kInvalidShape);
  args = good;
  args.out_stride = 24;
  EXPECT_EQ(DeviceMatMul(args, nullptr), KernelError::kInvalidShape);
  args = good;
  args.x = nullptr;
  EXPECT_EQ(DeviceMatMul(args, nullptr), KernelError::kNullPointer);
  args = good;
  args.num_rows = 0;
  args.out = nullptr;
  EXPECT_EQ(DeviceMatMul(args, nullptr), KernelError::kOk);
}

}  // namespace
}  // namespace outrider::kernels
