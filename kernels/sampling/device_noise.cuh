// The noise of coupled sampling and the weights of tokens in device code: the operations of coupled_noise.cc in the
// same order, so the same bits. No contraction: every sum and product is rounded.
#pragma once

#include <cstdint>

#include "kernels/sampling/philox.h"

namespace outrider::kernels::device {

__device__ __forceinline__ float NoiseLogReduced(float z, float exponent) {
  const float z2 = __fmul_rn(z, z);
  float p = 7.0376836292e-2f;
  p = __fadd_rn(__fmul_rn(p, z), -1.1514610310e-1f);
  p = __fadd_rn(__fmul_rn(p, z), 1.1676998740e-1f);
  p = __fadd_rn(__fmul_rn(p, z), -1.2420140846e-1f);
  p = __fadd_rn(__fmul_rn(p, z), 1.4249322787e-1f);
  p = __fadd_rn(__fmul_rn(p, z), -1.6668057665e-1f);
  p = __fadd_rn(__fmul_rn(p, z), 2.0000714765e-1f);
  p = __fadd_rn(__fmul_rn(p, z), -2.4999993993e-1f);
  p = __fadd_rn(__fmul_rn(p, z), 3.3333331174e-1f);
  float y = __fmul_rn(__fmul_rn(p, z), z2);
  y = __fadd_rn(y, __fmul_rn(exponent, -2.12194440e-4f));
  y = __fsub_rn(y, __fmul_rn(z2, 0.5f));
  return __fadd_rn(__fadd_rn(z, y), __fmul_rn(exponent, 0.693359375f));
}

__device__ __forceinline__ float NoiseLog(float x) {
  constexpr int32_t kSqrtHalfBits = 0x3F3504F3;
  const int32_t offset = __float_as_int(x) - kSqrtHalfBits;
  const float exponent = __int2float_rn(offset >> 23);
  const float z = __fsub_rn(__int_as_float((offset & 0x007FFFFF) + kSqrtHalfBits), 1.0f);
  return NoiseLogReduced(z, exponent);
}

__device__ __forceinline__ float NoiseExp(float x) {
  if (x != x) return x;
  if (x < -87.0f) return 0.0f;
  const float clamped = x < 88.0f ? x : 88.0f;
  const float shifted = __fadd_rn(__fmul_rn(clamped, 1.44269504088896341f), 12582912.0f);
  const float n = __fsub_rn(shifted, 12582912.0f);
  float r = __fsub_rn(clamped, __fmul_rn(n, 0.693359375f));
  r = __fsub_rn(r, __fmul_rn(n, -2.12194440e-4f));
  float p = 1.9875691500e-4f;
  p = __fadd_rn(__fmul_rn(p, r), 1.3981999507e-3f);
  p = __fadd_rn(__fmul_rn(p, r), 8.3334519073e-3f);
  p = __fadd_rn(__fmul_rn(p, r), 4.1665795894e-2f);
  p = __fadd_rn(__fmul_rn(p, r), 1.6666665459e-1f);
  p = __fadd_rn(__fmul_rn(p, r), 5.0000001201e-1f);
  p = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
  const uint32_t exponent = (__float_as_uint(shifted) - __float_as_uint(12582912.0f)) << 23;
  return __fmul_rn(p, __uint_as_float(exponent + 0x3F800000u));
}

// The weight of a token in units of 2^-34: WeightOf of row_scan.h. The product with a power of two is exact, and both
// round to nearest even.
__device__ __forceinline__ uint64_t WeightUnits(float delta) {
  return static_cast<uint64_t>(__float2ll_rn(__fmul_rn(NoiseExp(delta), 17179869184.0f)));
}

__device__ __forceinline__ float GumbelFromBits(uint32_t x) {
  const bool low = x < 0x80000000u;
  const int32_t m = static_cast<int32_t>(low ? x : ~x);
  const float f = __fmul_rn(__fadd_rn(__int2float_rn(m), 0.5f), 2.3283064365386963e-10f);  // 2^-32
  const float exponential = low && f < 0.29289f ? -NoiseLogReduced(-f, 0.0f) : -NoiseLog(low ? __fsub_rn(1.0f, f) : f);
  return -NoiseLog(exponential);
}

// Words 4 i .. 4 i + 3 of the coupled noise: Philox4x32 of philox.h.
__device__ __forceinline__ uint4 CoupledDraws(uint64_t seed, uint32_t lane, uint32_t position, uint32_t i) {
  uint32_t c0 = position, c1 = i, c2 = lane, c3 = static_cast<uint32_t>(DrawPurpose::kCoupled);
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint32_t high0 = __umulhi(kPhiloxMultiplier0, c0), low0 = kPhiloxMultiplier0 * c0;
    const uint32_t high1 = __umulhi(kPhiloxMultiplier1, c2), low1 = kPhiloxMultiplier1 * c2;
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return {c0, c1, c2, c3};
}

}  // namespace outrider::kernels::device
