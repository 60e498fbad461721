// Exp and Log in Highway, the same bits on every instruction set.
//
// Built from IEEE single-precision additions and multiplications only, in a stated order and without fma, so a lane's
// result is a function of its input alone, also where a target has no fma. Polynomials: Cephes expf and logf (Moshier,
// netlib.org/cephes), whose coefficients minimise the relative error on the reduced range.
//
// Include after hwy/highway.h, once a target (per-target include guard below); `-ffp-contract=off` is required.
#if defined(OUTRIDER_KERNELS_MATH_FAST_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OUTRIDER_KERNELS_MATH_FAST_MATH_INL_H_
#undef OUTRIDER_KERNELS_MATH_FAST_MATH_INL_H_
#else
#define OUTRIDER_KERNELS_MATH_FAST_MATH_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace outrider::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// exp(x). |relative error| <= 3e-7 in [-87, 88]; 0 below -87, the largest value above 88; a NaN stays a NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V lowest = hn::Set(d, -87.0f);
  const V clamped = hn::Max(hn::Min(x, hn::Set(d, 88.0f)), lowest);
  // n = round(x / ln 2): adding 1.5 * 2^23 leaves n in the low bits.
  const V magic = hn::Set(d, 12582912.0f);
  const V shifted = hn::Add(hn::Mul(clamped, hn::Set(d, 1.44269504088896341f)), magic);
  const V n = hn::Sub(shifted, magic);
  // r = x - n ln 2 in two parts; n * 0.693359375 is exact.
  V r = hn::Sub(clamped, hn::Mul(n, hn::Set(d, 0.693359375f)));
  r = hn::Sub(r, hn::Mul(n, hn::Set(d, -2.12194440e-4f)));
  V p = hn::Set(d, 1.9875691500e-4f);
  p = hn::Add(hn::Mul(p, r), hn::Set(d, 1.3981999507e-3f));
  p = hn::Add(hn::Mul(p, r), hn::Set(d, 8.3334519073e-3f));
  p = hn::Add(hn::Mul(p, r), hn::Set(d, 4.1665795894e-2f));
  p = hn::Add(hn::Mul(p, r), hn::Set(d, 1.6666665459e-1f));
  p = hn::Add(hn::Mul(p, r), hn::Set(d, 5.0000001201e-1f));
  p = hn::Add(hn::Add(hn::Mul(p, hn::Mul(r, r)), r), hn::Set(d, 1.0f));
  // p * 2^n: n is in [-126, 127], and p in [0.7, 1.5], so the product is normal.
  const auto exponent = hn::ShiftLeft<23>(hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, magic)));
  const V power = hn::BitCast(d, hn::Add(exponent, hn::Set(di, 0x3F800000)));
  V y = hn::Mul(p, power);
  y = hn::IfThenElse(hn::Lt(x, lowest), hn::Zero(d), y);
  return hn::IfThenElse(hn::Eq(x, x), y, x);
}

// log(1 + z) + exponent * ln 2 for 1 + z in [sqrt(1/2), sqrt(2)) and an integral exponent: Cephes' polynomial.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V LogReduced(D d, V z, V exponent) {
  const V z2 = hn::Mul(z, z);
  V p = hn::Set(d, 7.0376836292e-2f);
  p = hn::Add(hn::Mul(p, z), hn::Set(d, -1.1514610310e-1f));
  p = hn::Add(hn::Mul(p, z), hn::Set(d, 1.1676998740e-1f));
  p = hn::Add(hn::Mul(p, z), hn::Set(d, -1.2420140846e-1f));
  p = hn::Add(hn::Mul(p, z), hn::Set(d, 1.4249322787e-1f));
  p = hn::Add(hn::Mul(p, z), hn::Set(d, -1.6668057665e-1f));
  p = hn::Add(hn::Mul(p, z), hn::Set(d, 2.0000714765e-1f));
  p = hn::Add(hn::Mul(p, z), hn::Set(d, -2.4999993993e-1f));
  p = hn::Add(hn::Mul(p, z), hn::Set(d, 3.3333331174e-1f));
  V y = hn::Mul(hn::Mul(p, z), z2);
  y = hn::Add(y, hn::Mul(exponent, hn::Set(d, -2.12194440e-4f)));
  y = hn::Sub(y, hn::Mul(z2, hn::Set(d, 0.5f)));
  return hn::Add(hn::Add(z, y), hn::Mul(exponent, hn::Set(d, 0.693359375f)));
}

// Splits a positive normal x into x = (1 + z) * 2^exponent with 1 + z in [sqrt(1/2), sqrt(2)).
template <class D, class V = hn::Vec<D>>
HWY_INLINE void SplitForLog(D d, V x, V* z, V* exponent) {
  const hn::RebindToSigned<D> di;
  const auto sqrt_half_bits = hn::Set(di, 0x3F3504F3);
  const auto offset = hn::Sub(hn::BitCast(di, x), sqrt_half_bits);
  *exponent = hn::ConvertTo(d, hn::ShiftRight<23>(offset));
  const auto mantissa = hn::Add(hn::And(offset, hn::Set(di, 0x007FFFFF)), sqrt_half_bits);
  *z = hn::Sub(hn::BitCast(d, mantissa), hn::Set(d, 1.0f));
}

// log(x) for positive normal finite x: |error| <= 1.5 ulp.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log(D d, V x) {
  V z, exponent;
  SplitForLog(d, x, &z, &exponent);
  return LogReduced(d, z, exponent);
}

}  // namespace HWY_NAMESPACE
}  // namespace outrider::kernels
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
