#include "kernels/sampling/coupled_noise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace outrider::kernels {
namespace {

// x at and around every power of two from both ends, where exponents of u and 1 - u change, the switch at f = 0.29289,
// and an even sweep.
std::vector<uint32_t> Sweep() {
  std::vector<uint32_t> sweep;
  for (int e = 0; e < 32; ++e) {
    for (int64_t d = -40; d <= 40; ++d) {
      const uint32_t x = static_cast<uint32_t>((int64_t{1} << e) + d);
      sweep.push_back(x);
      sweep.push_back(~x);
    }
  }
  for (int64_t d = -2000; d <= 2000; ++d) sweep.push_back(static_cast<uint32_t>(1257953172 + d));
  for (uint64_t x = 0; x < (uint64_t{1} << 32); x += 9973) sweep.push_back(static_cast<uint32_t>(x));
  std::sort(sweep.begin(), sweep.end());
  return sweep;
}

TEST(CoupledNoise, StaysWithinItsStatedError) {
  double worst = 0, worst_relative = 0;
  for (const uint32_t x : Sweep()) {
    const long double u = (x + 0.5L) / 4294967296.0L;
    const long double exact = -std::log1p(-u);
    const float e = ExponentialFromBits(x);
    worst_relative = std::max(worst_relative, std::fabs(static_cast<double>(e / exact - 1)));
    worst = std::max(worst, std::fabs(static_cast<double>(GumbelFromBits(x) + std::log(exact))));
  }
  RecordProperty("worst_error", std::to_string(worst));
  EXPECT_LE(worst, kGumbelErrorMax);
  // Rounding of f, then of the polynomial's sum: a few units of 2^-24.
  EXPECT_LE(worst_relative, 4.5 * 0x1.0p-24);
}

TEST(CoupledNoise, FallsAsTheDrawRisesAndStaysFinite) {
  float before = kGumbelMax;
  for (const uint32_t x : Sweep()) {
    const float g = GumbelFromBits(x);
    EXPECT_LE(g, before) << x;
    before = g;
  }
  EXPECT_LT(GumbelFromBits(0), kGumbelMax);
  EXPECT_GT(GumbelFromBits(0xFFFFFFFFu), -3.14f);
  EXPECT_GT(ExponentialFromBits(0), 1.16e-10f);
}

// The bits are a contract between machines and versions: streams are replayed by it. Values: this implementation,
// checked against long double above.
TEST(CoupledNoise, KeepsItsBits) {
  const auto bits = [](uint32_t x) { return std::bit_cast<uint32_t>(GumbelFromBits(x)); };
  EXPECT_EQ(bits(0u), 0x41b6fda9u);
  EXPECT_EQ(bits(1u), 0x41ae33b3u);
  EXPECT_EQ(bits(0x12345678u), 0x4026d6b8u);
  EXPECT_EQ(bits(0x80000000u), 0x3ebba795u);
  EXPECT_EQ(bits(0xFFFFFFFFu), 0xc04851d5u);
}

TEST(NoiseExp, StaysWithinItsStatedError) {
  double worst = 0;
  for (int i = -870000; i <= 880000; i += 7) {
    const float x = static_cast<float>(i) * 1e-4f;
    worst = std::max(worst, std::fabs(NoiseExp(x) / std::exp(static_cast<double>(x)) - 1));
  }
  EXPECT_LE(worst, 3e-7);
  EXPECT_EQ(NoiseExp(0.0f), 1.0f);
  EXPECT_EQ(NoiseExp(-88.0f), 0.0f);
  EXPECT_EQ(NoiseExp(-INFINITY), 0.0f);
  EXPECT_TRUE(std::isnan(NoiseExp(NAN)));
}

TEST(NoiseLog, StaysWithinItsStatedError) {
  double worst_ulp = 0;
  for (double x = 1.2e-38; x < 3e38; x *= 1.0003) {
    const float value = static_cast<float>(x);
    const double exact = std::log(static_cast<double>(value));
    const float magnitude = std::fabs(static_cast<float>(exact));
    worst_ulp =
        std::max(worst_ulp, std::fabs(NoiseLog(value) - exact) / (std::nextafter(magnitude, 1e30f) - magnitude));
  }
  EXPECT_LE(worst_ulp, 1.5);
  EXPECT_EQ(NoiseLog(1.0f), 0.0f);
}

}  // namespace
}  // namespace outrider::kernels
