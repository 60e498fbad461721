#include "kernels/gemm/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "hwy/targets.h"
#include "kernels/common/dtype.h"
#include "kernels/gemm/matmul_reference.h"

namespace outrider::kernels {
namespace {

constexpr DType kAllDTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1};

uint32_t Seed() {
  static const uint32_t seed = [] {
    const char* set = std::getenv("OUTRIDER_TEST_SEED");
    const uint32_t value = set != nullptr && *set != '\0' ? static_cast<uint32_t>(std::atoll(set)) : 20250801u;
    std::printf("seed %u\n", value);
    return value;
  }();
  return seed;
}

// Runs `body` once for each instruction set this machine and this build have.
template <typename Body>
void ForEachTarget(const Body& body) {
  hwy::SetSupportedTargetsForTest(0);
  const int64_t supported = hwy::SupportedTargets();
  std::vector<std::string> seen;
  for (int64_t rest = supported; rest != 0; rest &= rest - 1) {
    hwy::SetSupportedTargetsForTest(rest & -rest);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    // A target this library has no code for runs as the next one it has.
    const std::string name = GemmTargetName();
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) continue;
    seen.push_back(name);
    SCOPED_TRACE(name);
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

std::vector<float> RandomValues(int64_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

// A weight matrix [out_features, in_features] as GGUF bytes and as packed.
struct Weights {
  Weights(DType dtype, int64_t n, int64_t k, std::mt19937& random)
      : dtype(dtype), n(n), k(k), bytes(n * RowBytes(dtype, k)) {
    for (int64_t i = 0; i < n; ++i) {
      std::vector<float> row = RandomValues(k, random);
      if (k > 3) row[(i * 37) % k] *= 50;  // an outlier in each row
      EXPECT_EQ(QuantizeRow(dtype, row.data(), k, bytes.data() + i * RowBytes(dtype, k)), KernelError::kOk);
    }
    Pack();
  }
  void Pack() { ASSERT_EQ(PackedMatrix::Pack(source(), &packed), KernelError::kOk); }
  MatrixSource source() const { return {dtype, bytes.data(), n, k}; }
  const uint8_t* row(int64_t i) const { return bytes.data() + i * RowBytes(dtype, k); }

  DType dtype;
  int64_t n, k;
  std::vector<uint8_t> bytes;
  PackedMatrix packed;
};

std::vector<float> Multiply(const PackedMatrix& w, const float* x, int64_t x_stride, int rows, int threads) {
  std::vector<float> out(rows * w.out_features(), -77.0f);
  ThreadPool pool(threads);
  GemmWorkspace workspace;
  const MatMulPart part{.w = &w, .out = out.data(), .out_stride = w.out_features()};
  EXPECT_EQ(MatMul({&part, 1}, x, x_stride, rows, pool, workspace), KernelError::kOk);
  return out;
}

// --- the header's formulas, word by word, from the GGUF bytes -------------------------------------------------------

struct PlainBlock {
  int8_t q[32];
  float scale, sum_scaled;
};

PlainBlock QuantizePlainly(const float* x) {
  PlainBlock block = {};
  float max = 0;
  for (int i = 0; i < 32; ++i) max = std::fmax(max, std::fabs(x[i]));
  if (max < 1e-30f) return block;
  int sum = 0;
  for (int i = 0; i < 32; ++i) {
    block.q[i] = static_cast<int8_t>(std::nearbyint(x[i] * (127.0f / max)));
    sum += block.q[i];
  }
  block.scale = max / 127.0f;
  block.sum_scaled = block.scale * static_cast<float>(sum);
  return block;
}

float DotPlainly(const Weights& w, int64_t n, const float* x) {
  float acc = 0;
  if (!IsQuantized(w.dtype)) {
    std::vector<float> row(w.k);
    EXPECT_EQ(DequantizeRow(w.dtype, w.row(n), w.k, row.data()), KernelError::kOk);
    for (int64_t k = 0; k < w.k; ++k) acc = std::fma(row[k], x[k], acc);
    return acc;
  }
  const uint8_t* block = w.row(n);
  for (int64_t b = 0; b < w.k / 32; ++b, block += BlockBytes(w.dtype)) {
    const PlainBlock activations = QuantizePlainly(x + b * 32);
    const float d = F16ToF32(static_cast<uint16_t>(block[0] | block[1] << 8));
    int dot = 0, sum = 0;
    for (int i = 0; i < 32; ++i) {
      const uint8_t* nibbles = block + (w.dtype == DType::kQ4_1 ? 4 : 2);
      const int weight = w.dtype == DType::kQ8_0 ? static_cast<int8_t>(block[2 + i])
                         : i < 16                ? nibbles[i] & 15
                                                 : nibbles[i - 16] >> 4;
      dot += weight * activations.q[i];
      sum += activations.q[i];
    }
    if (w.dtype == DType::kQ4_0) dot -= 8 * sum;
    acc = std::fma(static_cast<float>(dot), d * activations.scale, acc);
    if (w.dtype == DType::kQ4_1) {
      const float m = F16ToF32(static_cast<uint16_t>(block[2] | block[3] << 8));
      acc = std::fma(m, activations.sum_scaled, acc);
    }
  }
  return acc;
}

void ExpectSameBits(const std::vector<float>& actual, const Weights& w, const std::vector<float>& x, int rows) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < w.n; ++n) {
      ASSERT_EQ(std::bit_cast<uint32_t>(actual[r * w.n + n]), std::bit_cast<uint32_t>(DotPlainly(w, n, &x[r * w.k])))
          << DTypeName(w.dtype) << " n=" << w.n << " k=" << w.k << " rows=" << rows << ": row " << r << " output " << n;
    }
  }
}

TEST(MatMul, DoesExactlyWhatItsHeaderSays) {
  ForEachTarget([] {
    std::mt19937 random(Seed());
    for (const DType dtype : kAllDTypes) {
      const std::vector<int64_t> ks =
          IsQuantized(dtype) ? std::vector<int64_t>{32, 64, 96, 576} : std::vector<int64_t>{1, 5, 32, 100, 577};
      for (const int64_t k : ks) {
        for (const int64_t n : {1, 15, 16, 17, 40}) {
          const Weights w(dtype, n, k, random);
          for (const int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 19}) {
            if (rows > 5 && n == 15) continue;
            const std::vector<float> x = RandomValues(rows * k, random);
            ExpectSameBits(Multiply(w.packed, x.data(), k, rows, 1 + rows % 3), w, x, rows);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  });
}

// Every bit pattern a block can hold, also those no quantiser writes (Q8_0's -128), at the ends of the ranges.
TEST(MatMul, IntegerDotsNeverSaturate) {
  ForEachTarget([] {
    std::mt19937 random(Seed());
    for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
      Weights w(dtype, 48, 64, random);
      for (int64_t n = 0; n < w.n; ++n) {
        for (int64_t b = 0; b < 2; ++b) {
          uint8_t* block = w.bytes.data() + n * RowBytes(dtype, 64) + b * BlockBytes(dtype);
          const int header = dtype == DType::kQ4_1 ? 4 : 2;
          for (int i = header; i < BlockBytes(dtype); ++i) {
            block[i] = n < 16 ? 0x80 : n < 24 ? 0x7f : n < 32 ? 0xff : static_cast<uint8_t>(random());
          }
        }
      }
      w.Pack();
      for (const int pattern : {0, 1, 2, 3}) {
        std::vector<float> x(8 * 64);
        for (size_t i = 0; i < x.size(); ++i) {
          x[i] = pattern == 0   ? 127
                 : pattern == 1 ? -127
                 : pattern == 2 ? (i % 2 ? 127 : -127)
                                : (random() % 2 ? 127 : -127);
        }
        ExpectSameBits(Multiply(w.packed, x.data(), 64, 8, 1), w, x, 8);
        ExpectSameBits(Multiply(w.packed, x.data(), 64, 1, 1), w, x, 1);
        if (HasFatalFailure()) return;
      }
    }
  });
}

// --- against the reference ------------------------------------------------------------------------------------------

// |MatMul - exact| for one output. u = 2^-24. Quantised: rounding x to a grid of step dx moves each term by at most
// |w| * dx * (1/2 + 2^-14) (the 2^-14 covers the rounded inverse and scale: 127 * 3u); then 2 fma a block and the
// rounding of dw * dx and dx * sum(q), each relative to the magnitudes summed so far, and two roundings in the
// reference's dequantised weight. Q4_1 adds nibble and min terms apart, so its weight magnitude is d * nibble + |m|.
// Float: one fma an element.
double ToleranceOf(const Weights& w, int64_t n, const float* x) {
  constexpr double u = 0x1p-24;
  std::vector<float> row(w.k);
  EXPECT_EQ(DequantizeRow(w.dtype, w.row(n), w.k, row.data()), KernelError::kOk);
  double quantisation = 0, magnitude = 0;
  for (int64_t k = 0; k < w.k; ++k) {
    double weight = std::fabs(row[k]), activation = std::fabs(x[k]);
    if (IsQuantized(w.dtype)) {
      double max = 0;
      for (int64_t j = k / 32 * 32; j < k / 32 * 32 + 32; ++j) max = std::max<double>(max, std::fabs(x[j]));
      if (w.dtype == DType::kQ4_1) {
        const uint8_t* block = w.row(n) + k / 32 * BlockBytes(w.dtype);
        const double m = F16ToF32(static_cast<uint16_t>(block[2] | block[3] << 8));
        weight = std::fabs(row[k] - m) + std::fabs(m);
      }
      quantisation += std::fabs(row[k]) * max / 127 * (0.5 + 0x1p-14);
      activation += max / 127;
    }
    magnitude += weight * activation;
  }
  const double roundings = IsQuantized(w.dtype) ? 2.0 * (w.k / 32) + 6 : w.k + 1.0;
  return quantisation + roundings * u * magnitude * (1 + 0x1p-10);
}

// The outputs that differ from the reference by more than their tolerance.
int CountWrong(const std::vector<float>& actual, const Weights& w, const std::vector<float>& x, int rows) {
  ReferenceMatrix reference;
  EXPECT_EQ(ReferenceMatrix::Make(w.source(), &reference), KernelError::kOk);
  std::vector<float> expected(rows * w.n);
  ThreadPool pool(2);
  EXPECT_EQ(MatMulReference(reference, x.data(), w.k, rows, expected.data(), w.n, pool), KernelError::kOk);
  int wrong = 0;
  for (int r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < w.n; ++n) {
      const double difference = std::fabs(static_cast<double>(actual[r * w.n + n]) - expected[r * w.n + n]);
      // The negation counts NaN as wrong.
      if (!(difference <= ToleranceOf(w, n, &x[r * w.k]) + std::fabs(expected[r * w.n + n]) * 0x1p-24)) ++wrong;
    }
  }
  return wrong;
}

std::vector<float> ActivationsWithOutliers(int rows, int64_t k, std::mt19937& random) {
  std::vector<float> x = RandomValues(rows * k, random);
  for (int r = 0; r < rows; ++r) x[r * k + (r * 53) % k] = 1000.0f * (r % 2 ? 1 : -1);
  return x;
}

TEST(MatMul, StaysWithinTheDerivedToleranceOfTheReference) {
  ForEachTarget([] {
    std::mt19937 random(Seed());
    for (const DType dtype : kAllDTypes) {
      const Weights w(dtype, 50, 1536, random);
      const std::vector<float> plain = RandomValues(9 * w.k, random);
      EXPECT_EQ(CountWrong(Multiply(w.packed, plain.data(), w.k, 9, 2), w, plain, 9), 0) << DTypeName(dtype);
      const std::vector<float> outliers = ActivationsWithOutliers(9, w.k, random);
      EXPECT_EQ(CountWrong(Multiply(w.packed, outliers.data(), w.k, 9, 2), w, outliers, 9), 0) << DTypeName(dtype);
    }
  });
}

TEST(MatMul, ToleranceIsTightEnoughToSeePlantedFaults) {
  std::mt19937 random(Seed());
  for (const DType dtype : kAllDTypes) {
    const Weights w(dtype, 16, 64, random);
    // On the grid already (dx is 1), so that nothing but rounding is left to tolerate.
    std::vector<float> x(8 * w.k);
    for (float& v : x) v = static_cast<float>(static_cast<int>(random() % 255) - 127);
    for (size_t i = 0; i < x.size(); i += 32) x[i] = 127;
    const std::vector<float> right = Multiply(w.packed, x.data(), w.k, 8, 1);
    ASSERT_EQ(CountWrong(right, w, x, 8), 0);

    std::vector<float> swapped_rows = right;  // two rows of the tile exchanged
    std::swap_ranges(swapped_rows.begin(), swapped_rows.begin() + 16, swapped_rows.begin() + 16);
    EXPECT_GT(CountWrong(swapped_rows, w, x, 8), 0);

    std::vector<float> shifted_lanes = right;  // outputs one lane off
    std::rotate(shifted_lanes.begin(), shifted_lanes.begin() + 1, shifted_lanes.begin() + 16);
    EXPECT_GT(CountWrong(shifted_lanes, w, x, 8), 0);

    std::vector<float> lost_block = x;  // the last 32 elements of K dropped
    for (int r = 0; r < 8; ++r) std::fill_n(lost_block.begin() + r * w.k + 32, 32, 0.0f);
    EXPECT_GT(CountWrong(Multiply(w.packed, lost_block.data(), w.k, 8, 1), w, x, 8), 0);

    std::vector<float> nan = right;
    nan[5] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(CountWrong(nan, w, x, 8), 1);
  }
}

TEST(MatMul, CheckerSeesOneFlippedWeightBit) {
  std::mt19937 random(Seed());
  for (const DType dtype : kAllDTypes) {
    Weights w(dtype, 16, 64, random);
    const std::vector<float> x = RandomValues(w.k, random);
    const std::vector<float> before = Multiply(w.packed, x.data(), w.k, 1, 1);
    w.bytes[w.bytes.size() - 1] ^= 1;  // the last weight of the last row
    w.Pack();
    const std::vector<float> after = Multiply(w.packed, x.data(), w.k, 1, 1);
    for (int n = 0; n < 15; ++n) EXPECT_EQ(before[n], after[n]);
    EXPECT_NE(before[15], after[15]) << DTypeName(dtype);
  }
}

// --- exactness ------------------------------------------------------------------------------------------------------

TEST(MatMul, BitsOfARowDependOnNothingButTheRow) {
  constexpr int kRows = 256;
#ifdef OUTRIDER_SANITIZED
  constexpr int64_t kOut = 19, kIn = 64;
#else
  constexpr int64_t kOut = 83, kIn = 160;
#endif
  for (const DType dtype : kAllDTypes) {
    std::mt19937 random(Seed());
    const Weights w(dtype, kOut, kIn, random);
    const std::vector<float> x = RandomValues((kRows + 3) * w.k, random);
    std::vector<float> expected;  // of the first target, with one thread, row by row
    ForEachTarget([&] {
      std::vector<float> single;
      for (int r = 0; r < kRows; ++r) {
        const std::vector<float> row = Multiply(w.packed, &x[r * w.k], w.k, 1, 1);
        single.insert(single.end(), row.begin(), row.end());
      }
      if (expected.empty()) expected = single;
      ASSERT_EQ(std::memcmp(single.data(), expected.data(), expected.size() * 4), 0) << DTypeName(dtype);
      for (const int threads : {1, 2, 3, 4}) {
        for (const int rows : {1, 2, 5, 8, 64, 65, 256}) {
          for (const int shift : {0, 1, 3}) {
            if (shift + rows > kRows) continue;
            const std::vector<float> out = Multiply(w.packed, &x[shift * w.k], w.k, rows, threads);
            ASSERT_EQ(std::memcmp(out.data(), expected.data() + shift * w.n, out.size() * 4), 0)
                << DTypeName(dtype) << " rows=" << rows << " shift=" << shift << " threads=" << threads;
          }
        }
      }
    });
    if (HasFatalFailure()) return;
  }
}

// So many inputs that a product goes through them in several runs, and so many rows that it takes several blocks.
TEST(MatMul, LongRowsAndManyRowsKeepTheOrder) {
  ForEachTarget([] {
    std::mt19937 random(Seed());
    for (const DType dtype : {DType::kQ4_1, DType::kQ8_0, DType::kBF16}) {
      const Weights w(dtype, 17, IsQuantized(dtype) ? 4128 : 1030, random);
      const std::vector<float> few = RandomValues(9 * w.k, random);
      ExpectSameBits(Multiply(w.packed, few.data(), w.k, 9, 2), w, few, 9);
      const Weights narrow(dtype, 17, 32, random);
      const std::vector<float> many = RandomValues(300 * 32, random);
      ExpectSameBits(Multiply(narrow.packed, many.data(), 32, 300, 2), narrow, many, 300);
      if (HasFatalFailure()) return;
    }
  });
}

TEST(MatMul, PartsOfACallHaveTheBitsOfCallsOfTheirOwn) {
  std::mt19937 random(Seed());
  const Weights q(DType::kQ4_1, 70, 96, random), k(DType::kQ8_0, 20, 96, random), v(DType::kF16, 33, 96, random);
  const Weights none(DType::kQ4_0, 0, 96, random);
  for (const int rows : {1, 4, 11}) {
    for (const int threads : {1, 3}) {
      const std::vector<float> x = RandomValues(rows * 100, random);  // rows 100 apart
      std::vector<float> q_out(rows * 80, 5.0f), k_out(rows * 20), v_out(rows * 33);
      const MatMulPart parts[] = {{.w = &q.packed, .out = q_out.data(), .out_stride = 80},
                                  {.w = &none.packed},
                                  {.w = &k.packed, .out = k_out.data(), .out_stride = 20},
                                  {.w = &v.packed, .out = v_out.data(), .out_stride = 33}};
      ThreadPool pool(threads);
      GemmWorkspace workspace;
      ASSERT_EQ(MatMul(parts, x.data(), 100, rows, pool, workspace), KernelError::kOk);
      const std::vector<float> q_alone = Multiply(q.packed, x.data(), 100, rows, 1);
      for (int r = 0; r < rows; ++r) {
        EXPECT_EQ(std::memcmp(&q_out[r * 80], &q_alone[r * 70], 70 * 4), 0);
        for (int i = 70; i < 80; ++i) EXPECT_EQ(q_out[r * 80 + i], 5.0f);  // between rows nothing is written
      }
      EXPECT_EQ(k_out, Multiply(k.packed, x.data(), 100, rows, 1));
      EXPECT_EQ(v_out, Multiply(v.packed, x.data(), 100, rows, 1));
    }
  }
}

TEST(MatMul, EpilogueAddsBiasThenOldOutput) {
  ForEachTarget([] {
    std::mt19937 random(Seed());
    for (const DType dtype : {DType::kQ4_1, DType::kF32}) {
      const Weights w(dtype, 37, 64, random);
      for (const int rows : {1, 9}) {
        const std::vector<float> x = RandomValues(rows * 64, random), bias = RandomValues(37, random);
        const std::vector<float> before = RandomValues(rows * 37, random);
        const std::vector<float> plain = Multiply(w.packed, x.data(), 64, rows, 1);
        std::vector<float> out = before;
        MatMulPart part{.w = &w.packed, .out = out.data(), .out_stride = 37, .bias = bias.data()};
        part.epilogue = Epilogue::kAdd;
        ThreadPool pool(2);
        GemmWorkspace workspace;
        ASSERT_EQ(MatMul({&part, 1}, x.data(), 64, rows, pool, workspace), KernelError::kOk);
        for (int i = 0; i < rows * 37; ++i) ASSERT_EQ(out[i], before[i] + (plain[i] + bias[i % 37]));
        part.epilogue = Epilogue::kStore;
        ASSERT_EQ(MatMul({&part, 1}, x.data(), 64, rows, pool, workspace), KernelError::kOk);
        for (int i = 0; i < rows * 37; ++i) ASSERT_EQ(out[i], plain[i] + bias[i % 37]);
      }
    }
  });
}

TEST(MatMul, NonFiniteActivationsSpoilOnlyTheirRow) {
  ForEachTarget([] {
    std::mt19937 random(Seed());
    for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
      const Weights w(dtype, 20, 96, random);
      std::vector<float> x = RandomValues(5 * 96, random);
      const std::vector<float> clean = Multiply(w.packed, x.data(), 96, 5, 1);
      x[1 * 96 + 40] = std::numeric_limits<float>::quiet_NaN();
      x[3 * 96 + 70] = -std::numeric_limits<float>::infinity();
      const std::vector<float> out = Multiply(w.packed, x.data(), 96, 5, 1);
      for (int i = 0; i < 5 * 20; ++i) {
        if (i / 20 == 1 || i / 20 == 3) {
          EXPECT_TRUE(std::isnan(out[i]));
        } else {
          EXPECT_EQ(out[i], clean[i]);
        }
      }
    }
  });
}

TEST(MatMul, ExtremeMagnitudesAreScaledNotLost) {
  ForEachTarget([] {
    std::mt19937 random(Seed());
    for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
      const Weights w(dtype, 16, 32, random);
      for (const float scale : {1e-29f, 1e-20f, 1e20f, 1e34f}) {
        std::vector<float> x = RandomValues(32, random);
        for (float& v : x) v *= scale;
        ExpectSameBits(Multiply(w.packed, x.data(), 32, 1, 1), w, x, 1);
      }
      const std::vector<float> zeros(32, 0.0f), tiny(32, 1e-38f);
      for (const float v : Multiply(w.packed, zeros.data(), 32, 1, 1)) EXPECT_EQ(v, 0.0f);
      for (const float v : Multiply(w.packed, tiny.data(), 32, 1, 1)) EXPECT_EQ(v, 0.0f);
    }
  });
}

// --- calls that do nothing, or must not run
// ---------------------------------------------------------------------------

TEST(MatMul, RefusesWhatDoesNotFitAndWritesNothing) {
  std::mt19937 random(Seed());
  const Weights w(DType::kQ4_1, 20, 64, random), other(DType::kQ4_1, 20, 96, random);
  const std::vector<float> x(3 * 96, 1.0f);
  std::vector<float> out(3 * 20, 9.0f);
  ThreadPool pool(2);
  GemmWorkspace workspace;
  const MatMulPart good{.w = &w.packed, .out = out.data(), .out_stride = 20};
  const auto run = [&](std::vector<MatMulPart> parts, const float* from, int64_t stride, int rows) {
    return MatMul(parts, from, stride, rows, pool, workspace);
  };
  EXPECT_EQ(run({good}, x.data(), 64, -1), KernelError::kInvalidShape);
  EXPECT_EQ(run({good}, x.data(), 63, 2), KernelError::kInvalidShape);
  EXPECT_EQ(run({good}, nullptr, 64, 2), KernelError::kNullPointer);
  EXPECT_EQ(run({good, {.w = &other.packed, .out = out.data(), .out_stride = 20}}, x.data(), 96, 2),
            KernelError::kInvalidShape);
  EXPECT_EQ(run({good, {.w = nullptr, .out = out.data(), .out_stride = 20}}, x.data(), 96, 2),
            KernelError::kNullPointer);
  EXPECT_EQ(run({good, {.w = &w.packed, .out = nullptr, .out_stride = 20}}, x.data(), 96, 2),
            KernelError::kNullPointer);
  EXPECT_EQ(run({good, {.w = &w.packed, .out = out.data(), .out_stride = 19}}, x.data(), 96, 2),
            KernelError::kInvalidShape);
  EXPECT_EQ(run({good}, x.data(), 64, 0), KernelError::kOk);
  EXPECT_EQ(run({}, x.data(), 64, 3), KernelError::kOk);
  for (const float v : out) EXPECT_EQ(v, 9.0f);
}

TEST(MatMul, EmptySumsAreZeroPlusBias) {
  PackedMatrix w;
  ASSERT_EQ(PackedMatrix::Pack({DType::kF32, nullptr, 20, 0}, &w), KernelError::kOk);
  std::vector<float> out(40, 3.0f), bias(20, 0.5f);
  const MatMulPart part{.w = &w, .out = out.data(), .out_stride = 20, .bias = bias.data()};
  ThreadPool pool(1);
  GemmWorkspace workspace;
  ASSERT_EQ(MatMul({&part, 1}, nullptr, 0, 2, pool, workspace), KernelError::kOk);
  for (const float v : out) EXPECT_EQ(v, 0.5f);
}

TEST(MatMul, WorkspaceGrowsOnlyForLargerCalls) {
  std::mt19937 random(Seed());
  const Weights w(DType::kQ4_1, 20, 64, random), f(DType::kF32, 20, 64, random);
  const std::vector<float> x(8 * 64, 1.0f);
  std::vector<float> out(8 * 20);
  ThreadPool pool(1);
  GemmWorkspace workspace;
  ASSERT_EQ(workspace.Reserve(8, 64), KernelError::kOk);
  const int64_t capacity = workspace.capacity_bytes();
  for (const Weights* each : {&w, &f}) {
    for (const int rows : {1, 3, 8}) {
      const MatMulPart part{.w = &each->packed, .out = out.data(), .out_stride = 20};
      ASSERT_EQ(MatMul({&part, 1}, x.data(), 64, rows, pool, workspace), KernelError::kOk);
      EXPECT_EQ(workspace.capacity_bytes(), capacity);
    }
  }
  EXPECT_EQ(workspace.Reserve(-1, 64), KernelError::kInvalidShape);
}

// --- the reference itself -------------------------------------------------------------------------------------------

TEST(MatMulReference, IsTheDoubleSumInOrder) {
  std::mt19937 random(Seed());
  for (const DType dtype : kAllDTypes) {
    const int64_t k = IsQuantized(dtype) ? 96 : 77;
    const Weights w(dtype, 21, k, random);
    for (const IndexRange columns : {IndexRange{0, k}, IndexRange{5, 60}}) {
      ReferenceMatrix reference;
      ASSERT_EQ(ReferenceMatrix::Make(w.source(), {2, 21}, columns, &reference), KernelError::kOk);
      for (const int rows : {1, 4, 7}) {
        const std::vector<float> x = RandomValues(rows * columns.size(), random);
        std::vector<float> out(rows * 19), row(k);
        ThreadPool pool(3);
        ASSERT_EQ(MatMulReference(reference, x.data(), columns.size(), rows, out.data(), 19, pool), KernelError::kOk);
        for (int64_t n = 0; n < 19; ++n) {
          ASSERT_EQ(DequantizeRow(dtype, w.row(n + 2), k, row.data()), KernelError::kOk);
          for (int r = 0; r < rows; ++r) {
            double sum = 0;
            for (int64_t i = 0; i < columns.size(); ++i) {
              sum += static_cast<double>(x[r * columns.size() + i]) * row[columns.first + i];
            }
            ASSERT_EQ(out[r * 19 + n], static_cast<float>(sum));
          }
        }
      }
    }
  }
}

TEST(MatMulReference, RefusesWhatDoesNotFit) {
  std::mt19937 random(Seed());
  const Weights w(DType::kF32, 20, 33, random);
  ReferenceMatrix reference;
  ASSERT_EQ(ReferenceMatrix::Make(w.source(), &reference), KernelError::kOk);
  ThreadPool pool(1);
  std::vector<float> x(66), out(40);
  EXPECT_EQ(MatMulReference(reference, x.data(), 33, -1, out.data(), 20, pool), KernelError::kInvalidShape);
  EXPECT_EQ(MatMulReference(reference, x.data(), 32, 2, out.data(), 20, pool), KernelError::kInvalidShape);
  EXPECT_EQ(MatMulReference(reference, x.data(), 33, 2, out.data(), 19, pool), KernelError::kInvalidShape);
  EXPECT_EQ(MatMulReference(reference, nullptr, 33, 1, out.data(), 20, pool), KernelError::kNullPointer);
  EXPECT_EQ(MatMulReference(reference, x.data(), 33, 0, nullptr, 20, pool), KernelError::kOk);
  EXPECT_EQ(ReferenceMatrix::Make(w.source(), {0, 21}, {0, 33}, &reference), KernelError::kInvalidShape);
}

}  // namespace
}  // namespace outrider::kernels
