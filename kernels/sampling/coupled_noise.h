// The noise of coupled sampling: 32 random bits x become an exponential variate E, and a token's score is
//   logit' - log E,   u = (x + 0.5) / 2^32,   E = -log1p(-u)
// The highest score wins: that is Gumbel-max (Gumbel 1954; Maddison et al., arXiv:1411.0030), with its resolution where
// winners are, near u = 0. Target and draft share the noise: drafter-invariant speculative sampling, arXiv:2408.07978.
//
// Bits: additions, multiplications and divisions of IEEE single precision in a stated order, no fma, no library
// function: the same on every instruction set and device, scalar or not (noise_test.cc compares them).
//   x <  2^31  f = (float(x) + 0.5) * 2^-32     E = 2 atanh(f / (2 - f))     = -log1p(-f)
//   x >= 2^31  f = (float(~x) + 0.5) * 2^-32    E = -Log(f)                  since 1 - u = (~x + 0.5) / 2^32
// so E is never 0 or infinite and keeps its relative precision at both ends. Error of the noise, measured over a sweep
// of x against long double: see kNoiseErrorMax.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>

namespace outrider::kernels {

// log of a finite positive normal float; |error| <= 1.5 ulp (kernels/math/fast_math-inl.h has the same in SIMD).
float NoiseLog(float x);

// E in [1.1e-10, 22.9].
float ExponentialFromBits(uint32_t x);

// -log E in [-3.13, 22.88]; to be added to a logit.
float GumbelFromBits(uint32_t x);

// Largest |GumbelFromBits(x) - exact| over all x: under 3e-7 where |value| <= 1, 2 ulp beyond. Derived in
// noise_test.cc.
inline constexpr float kNoiseErrorMax = 2.5e-6f;

// No draw scores more than its logit plus this: -log E(x = 0), rounded up.
inline constexpr float kGumbelMax = 22.88f;

}  // namespace outrider::kernels
