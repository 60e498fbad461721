// The noise of coupled sampling: 32 random bits x become an exponential variate E, and a token's score is
//   logit' - log E,   u = (x + 0.5) / 2^32,   E = -log1p(-u)
// The highest score wins: that is Gumbel-max (Gumbel 1954; Maddison et al., arXiv:1411.0030), with its resolution where
// winners are, near u = 0. Target and draft share the noise: drafter-invariant speculative sampling, arXiv:2408.07978.
//
// Bits: IEEE single-precision additions and multiplications in a stated order, no fma and no library function, so the
// same on every instruction set and device, scalar or not (coupled_noise_test.cc compares them). With Log and
// LogReduced(z, e) = log(1 + z) + e ln 2 of kernels/math/fast_math-inl.h:
//   m = x < 2^31 ? x : ~x,   f = (float(m) + 0.5) * 2^-32               float(): to nearest even
//   x < 2^31 and f < 0.29289:   E = -LogReduced(-f, 0)                  keeps the relative precision of a small E
//   else:   E = -Log(x < 2^31 ? 1 - f : f)                              since 1 - u = (~x + 0.5) / 2^32
// so E is never 0 or infinite.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>

namespace outrider::kernels {

// log(x) of a positive normal finite float; |error| <= 1.5 ulp.
float NoiseLog(float x);

// exp(x) as in kernels/math/fast_math-inl.h: |relative error| <= 3e-7 in [-87, 88]; 0 below.
float NoiseExp(float x);

// E in [1.16e-10, 22.88].
float ExponentialFromBits(uint32_t x);

// -log E in [-3.14, 22.88]: what is added to a logit.
float GumbelFromBits(uint32_t x);

// Largest |GumbelFromBits(x) - exact|: half an ulp of 22.9 for the last rounding and as much again for E's relative
// error and the polynomial. The test holds a sweep over all exponents of u and 1 - u to it.
inline constexpr float kGumbelErrorMax = 2.0e-6f;

// No token scores more than its logit plus this: -log E of x = 0 (22.8739), rounded up.
inline constexpr float kGumbelMax = 22.874f;

}  // namespace outrider::kernels
