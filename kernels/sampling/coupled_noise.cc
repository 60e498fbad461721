#include "kernels/sampling/coupled_noise.h"

#include <bit>

namespace outrider::kernels {
namespace {

// The scalar twins of fast_math-inl.h: the same operations in the same order, so the same bits.
float LogReduced(float z, float exponent) {
  const float z2 = z * z;
  float p = 7.0376836292e-2f;
  p = p * z + -1.1514610310e-1f;
  p = p * z + 1.1676998740e-1f;
  p = p * z + -1.2420140846e-1f;
  p = p * z + 1.4249322787e-1f;
  p = p * z + -1.6668057665e-1f;
  p = p * z + 2.0000714765e-1f;
  p = p * z + -2.4999993993e-1f;
  p = p * z + 3.3333331174e-1f;
  float y = (p * z) * z2;
  y = y + exponent * -2.12194440e-4f;
  y = y - z2 * 0.5f;
  return (z + y) + exponent * 0.693359375f;
}

}  // namespace

float NoiseLog(float x) {
  constexpr int32_t kSqrtHalfBits = 0x3F3504F3;
  const int32_t offset = std::bit_cast<int32_t>(x) - kSqrtHalfBits;
  const float exponent = static_cast<float>(offset >> 23);
  const float z = std::bit_cast<float>((offset & 0x007FFFFF) + kSqrtHalfBits) - 1.0f;
  return LogReduced(z, exponent);
}

float NoiseExp(float x) {
  if (x != x) return x;
  if (x < -87.0f) return 0.0f;
  const float clamped = x < 88.0f ? x : 88.0f;
  const float shifted = clamped * 1.44269504088896341f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  float r = clamped - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * (r * r) + r) + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(12582912.0f)) << 23;
  return p * std::bit_cast<float>(exponent + 0x3F800000u);
}

float ExponentialFromBits(uint32_t x) {
  const bool low = x < 0x80000000u;
  const int32_t m = static_cast<int32_t>(low ? x : ~x);
  const float f = (static_cast<float>(m) + 0.5f) * 2.3283064365386963e-10f;  // 2^-32
  if (low && f < 0.29289f) return -LogReduced(-f, 0.0f);
  return -NoiseLog(low ? 1.0f - f : f);
}

float GumbelFromBits(uint32_t x) { return -NoiseLog(ExponentialFromBits(x)); }

}  // namespace outrider::kernels
