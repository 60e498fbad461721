// The vectors of the CPU products: a group of 16 outputs as kParts vectors of kLanes floats (F) or int32 (I): one with
// AVX-512, two with AVX2, one plain array elsewhere. Every lane does the same operations in the same order everywhere.
//
// DotNibbles<R>: dot[r] += sum of nibble * x over a block of 32. DotBytes<R>: dot[r] = sum of (quant - 128) * x. Of R
// rows; |x| <= 127. Quants lie as packed_matrix.h says.
//
// Include after hwy/highway.h, once a target (per-target include guard below).
#if defined(OUTRIDER_KERNELS_GEMM_GEMM_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OUTRIDER_KERNELS_GEMM_GEMM_LANES_INL_H_
#undef OUTRIDER_KERNELS_GEMM_GEMM_LANES_INL_H_
#else
#define OUTRIDER_KERNELS_GEMM_GEMM_LANES_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/common/dtype.h"
#include "kernels/gemm/packed_matrix.h"

#if HWY_TARGET == HWY_AVX3_DL
// Highway asks the CPU for VNNI before it chooses this target, but does not tell the compiler.
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace outrider::kernels {
namespace HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL

constexpr int kParts = 1;
using F = __m512;
using I = __m512i;

HWY_INLINE F Zero() { return _mm512_setzero_ps(); }
HWY_INLINE F Set1(float v) { return _mm512_set1_ps(v); }
HWY_INLINE F Load(const float* p) { return _mm512_loadu_ps(p); }
HWY_INLINE F LoadF16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
HWY_INLINE F LoadBF16(const uint16_t* p) {
  const I wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
HWY_INLINE void Store(F v, float* p) { _mm512_storeu_ps(p, v); }
HWY_INLINE F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
HWY_INLINE F Add(F a, F b) { return _mm512_add_ps(a, b); }
HWY_INLINE F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
HWY_INLINE F ToFloat(I v) { return _mm512_cvtepi32_ps(v); }
HWY_INLINE I ZeroI() { return _mm512_setzero_si512(); }
template <int kShift>
HWY_INLINE I Set1Shifted(int32_t v) {
  return _mm512_slli_epi32(_mm512_set1_epi32(v), kShift);
}
HWY_INLINE I SetQuad(const int8_t* x) {
  int32_t quad;
  std::memcpy(&quad, x, 4);
  return _mm512_set1_epi32(quad);
}
HWY_INLINE I LoadI(const uint8_t* p) { return _mm512_loadu_si512(p); }
HWY_INLINE I SetBytes(int8_t v) { return _mm512_set1_epi8(v); }
HWY_INLINE I SetWords(int16_t v) { return _mm512_set1_epi16(v); }
HWY_INLINE I And(I a, I b) { return _mm512_and_si512(a, b); }
HWY_INLINE I Xor(I a, I b) { return _mm512_xor_si512(a, b); }
HWY_INLINE I ShiftWordsRight4(I v) { return _mm512_srli_epi16(v, 4); }
HWY_INLINE I AddWords(I a, I b) { return _mm512_add_epi16(a, b); }
HWY_INLINE I AddInts(I a, I b) { return _mm512_add_epi32(a, b); }
HWY_INLINE I MulBytesAddPairs(I a, I b) { return _mm512_maddubs_epi16(a, b); }
HWY_INLINE I MulWordsAddPairs(I a, I b) { return _mm512_madd_epi16(a, b); }
HWY_INLINE I AbsBytes(I v) { return _mm512_abs_epi8(v); }
// v with the sign of w, byte by byte; any value where w is 0.
HWY_INLINE I WithSignOf(I v, I w) { return _mm512_mask_sub_epi8(v, _mm512_movepi8_mask(w), ZeroI(), v); }
// Hides from the compiler how `sum` came about. GCC would otherwise regroup a chain of integer sums into a tree whose
// leaves do not fit the registers.
HWY_INLINE void KeepChain(I& sum) { asm("" : "+v"(sum)); }

#if HWY_TARGET == HWY_AVX3_DL

template <int R>
HWY_INLINE void DotNibbles(const uint8_t* quants, const int8_t* x, I* dot) {
  const I mask = SetBytes(15);
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) {
    const I w = LoadI(quants + quad * 64);
    const I low = And(w, mask);
    const I high = And(ShiftWordsRight4(w), mask);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) dot[r] = _mm512_dpbusd_epi32(dot[r], low, SetQuad(x + r * 32 + quad * 4));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) dot[r] = _mm512_dpbusd_epi32(dot[r], high, SetQuad(x + r * 32 + 16 + quad * 4));
  }
}

template <int R>
HWY_INLINE void DotBytes(const uint8_t* quants, const int8_t* x, const int32_t* minus_sums, I* dot) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) dot[r] = Set1Shifted<7>(minus_sums[r]);
#pragma GCC unroll 8
  for (int quad = 0; quad < 8; ++quad) {
    const I w = LoadI(quants + quad * 64);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) dot[r] = _mm512_dpbusd_epi32(dot[r], w, SetQuad(x + r * 32 + quad * 4));
  }
}

#endif  // AVX3_DL

#elif HWY_TARGET == HWY_AVX2

constexpr int kParts = 2;
using F = __m256;
using I = __m256i;

HWY_INLINE F Zero() { return _mm256_setzero_ps(); }
HWY_INLINE F Set1(float v) { return _mm256_set1_ps(v); }
HWY_INLINE F Load(const float* p) { return _mm256_loadu_ps(p); }
HWY_INLINE F LoadF16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
HWY_INLINE F LoadBF16(const uint16_t* p) {
  const I wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
HWY_INLINE void Store(F v, float* p) { _mm256_storeu_ps(p, v); }
HWY_INLINE F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
HWY_INLINE F Add(F a, F b) { return _mm256_add_ps(a, b); }
HWY_INLINE F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
HWY_INLINE F ToFloat(I v) { return _mm256_cvtepi32_ps(v); }
HWY_INLINE I ZeroI() { return _mm256_setzero_si256(); }
template <int kShift>
HWY_INLINE I Set1Shifted(int32_t v) {
  return _mm256_slli_epi32(_mm256_set1_epi32(v), kShift);
}
HWY_INLINE I SetQuad(const int8_t* x) {
  int32_t quad;
  std::memcpy(&quad, x, 4);
  return _mm256_set1_epi32(quad);
}
HWY_INLINE I LoadI(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
HWY_INLINE I SetBytes(int8_t v) { return _mm256_set1_epi8(v); }
HWY_INLINE I SetWords(int16_t v) { return _mm256_set1_epi16(v); }
HWY_INLINE I And(I a, I b) { return _mm256_and_si256(a, b); }
HWY_INLINE I Xor(I a, I b) { return _mm256_xor_si256(a, b); }
HWY_INLINE I ShiftWordsRight4(I v) { return _mm256_srli_epi16(v, 4); }
HWY_INLINE I AddWords(I a, I b) { return _mm256_add_epi16(a, b); }
HWY_INLINE I AddInts(I a, I b) { return _mm256_add_epi32(a, b); }
HWY_INLINE I MulBytesAddPairs(I a, I b) { return _mm256_maddubs_epi16(a, b); }
HWY_INLINE I MulWordsAddPairs(I a, I b) { return _mm256_madd_epi16(a, b); }
HWY_INLINE I AbsBytes(I v) { return _mm256_abs_epi8(v); }
// v with the sign of w, byte by byte; any value where w is 0.
HWY_INLINE I WithSignOf(I v, I w) { return _mm256_sign_epi8(v, w); }
// Hides from the compiler how `sum` came about. GCC would otherwise regroup a chain of integer sums into a tree whose
// leaves do not fit the registers.
HWY_INLINE void KeepChain(I& sum) { asm("" : "+x"(sum)); }

#else  // any other target

constexpr int kParts = 1;
struct F {
  float v[kGroupSize];
};
struct I {
  int32_t v[kGroupSize];
};

template <typename Fn>
HWY_INLINE F MakeF(const Fn& fn) {
  F f;
  for (int i = 0; i < kGroupSize; ++i) f.v[i] = fn(i);
  return f;
}
HWY_INLINE F Set1(float v) {
  return MakeF([v](int) { return v; });
}
HWY_INLINE F Zero() { return Set1(0.0f); }
HWY_INLINE F Load(const float* p) {
  return MakeF([p](int i) { return p[i]; });
}
HWY_INLINE F LoadF16(const uint16_t* p) {
  return MakeF([p](int i) { return F16ToF32(p[i]); });
}
HWY_INLINE F LoadBF16(const uint16_t* p) {
  return MakeF([p](int i) { return BF16ToF32(p[i]); });
}
HWY_INLINE void Store(const F& f, float* p) { std::memcpy(p, f.v, sizeof(f.v)); }
HWY_INLINE F Mul(const F& a, const F& b) {
  return MakeF([&](int i) { return a.v[i] * b.v[i]; });
}
HWY_INLINE F Add(const F& a, const F& b) {
  return MakeF([&](int i) { return a.v[i] + b.v[i]; });
}
HWY_INLINE F Fma(const F& a, const F& b, const F& c) {
  return MakeF([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
HWY_INLINE F ToFloat(const I& a) {
  return MakeF([&](int i) { return static_cast<float>(a.v[i]); });
}
HWY_INLINE I ZeroI() { return I{}; }
template <int kShift>
HWY_INLINE I Set1Shifted(int32_t v) {
  I result;
  for (int i = 0; i < kGroupSize; ++i) result.v[i] = v * (1 << kShift);
  return result;
}

template <int R>
HWY_INLINE void DotNibbles(const uint8_t* quants, const int8_t* x, I* dot) {
  for (int i = 0; i < 4 * 64; ++i) {
    const int k = i / 64 * 4 + i % 4;
    for (int r = 0; r < R; ++r) {
      dot[r].v[i % 64 / 4] += (quants[i] & 15) * x[r * 32 + k] + (quants[i] >> 4) * x[r * 32 + 16 + k];
    }
  }
}

template <int R>
HWY_INLINE void DotBytes(const uint8_t* quants, const int8_t* x, const int32_t* /*minus_sums*/, I* dot) {
  for (int r = 0; r < R; ++r) dot[r] = ZeroI();
  for (int i = 0; i < 8 * 64; ++i) {
    const int k = i / 64 * 4 + i % 4;
    for (int r = 0; r < R; ++r) dot[r].v[i % 64 / 4] += (quants[i] - 128) * x[r * 32 + k];
  }
}

#endif  // targets

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
// Without VNNI: products of bytes are added in pairs of 16 bits.

template <int R>
HWY_INLINE void DotNibbles(const uint8_t* quants, const int8_t* x, I* dot) {
  const I mask = SetBytes(15);
  const I ones = SetWords(1);
  I pairs[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) pairs[r] = ZeroI();
    // Eight products of pairs fit 16 bits: 8 * 2 * 15 * 127 = 30480.
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) {
    const I w = LoadI(quants + quad * 64);
    const I low = And(w, mask);
    const I high = And(ShiftWordsRight4(w), mask);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      pairs[r] = AddWords(pairs[r], MulBytesAddPairs(low, SetQuad(x + r * 32 + quad * 4)));
      pairs[r] = AddWords(pairs[r], MulBytesAddPairs(high, SetQuad(x + r * 32 + 16 + quad * 4)));
      KeepChain(pairs[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) dot[r] = AddInts(dot[r], MulWordsAddPairs(pairs[r], ones));
}

template <int R>
HWY_INLINE void DotBytes(const uint8_t* quants, const int8_t* x, const int32_t* /*minus_sums*/, I* dot) {
  const I flip = SetBytes(-128);
  const I ones = SetWords(1);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) dot[r] = ZeroI();
#pragma GCC unroll 8
  for (int quad = 0; quad < 8; ++quad) {
    // |w| * (x with the sign of w): a pair is at most 2 * 128 * 127 = 32512, so it cannot saturate.
    const I w = Xor(LoadI(quants + quad * 64), flip);
    const I magnitude = AbsBytes(w);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const I pairs = MulBytesAddPairs(magnitude, WithSignOf(SetQuad(x + r * 32 + quad * 4), w));
      dot[r] = AddInts(dot[r], MulWordsAddPairs(pairs, ones));
      KeepChain(dot[r]);
    }
  }
}

#endif

constexpr int kLanes = kGroupSize / kParts;

// MaxMagnitudeBits: the largest of 32 |x[i]| as an integer. RoundBlock: 32 floats times `inverse` to int8, to nearest
// even; returns their sum.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
HWY_INLINE uint32_t MaxMagnitudeBits(const float* x) {
  const I mask = _mm512_set1_epi32(0x7fffffff);
  const I a = _mm512_and_si512(_mm512_loadu_si512(x), mask);
  const I b = _mm512_and_si512(_mm512_loadu_si512(x + 16), mask);
  return static_cast<uint32_t>(_mm512_reduce_max_epi32(_mm512_max_epi32(a, b)));
}
HWY_INLINE int32_t RoundBlock(const float* x, float inverse, int8_t* quants) {
  const F scale = Set1(inverse);
  const I a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), scale));
  const I b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), scale));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(quants), _mm512_cvtepi32_epi8(a));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(quants + 16), _mm512_cvtepi32_epi8(b));
  return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}
#elif HWY_TARGET == HWY_AVX2
HWY_INLINE I LoadMagnitude(const float* x) {
  return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)), _mm256_set1_epi32(0x7fffffff));
}
HWY_INLINE uint32_t MaxMagnitudeBits(const float* x) {
  const I ab = _mm256_max_epi32(LoadMagnitude(x), LoadMagnitude(x + 8));
  const I cd = _mm256_max_epi32(LoadMagnitude(x + 16), LoadMagnitude(x + 24));
  const I all = _mm256_max_epi32(ab, cd);
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
}
HWY_INLINE int32_t RoundBlock(const float* x, float inverse, int8_t* quants) {
  const F scale = Set1(inverse);
  const I a = _mm256_cvtps_epi32(_mm256_mul_ps(Load(x), scale));
  const I b = _mm256_cvtps_epi32(_mm256_mul_ps(Load(x + 8), scale));
  const I c = _mm256_cvtps_epi32(_mm256_mul_ps(Load(x + 16), scale));
  const I d = _mm256_cvtps_epi32(_mm256_mul_ps(Load(x + 24), scale));
  // The packs interleave 128-bit halves; the permutation puts the groups of four back in order.
  const I bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  const I in_order = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(quants), in_order);
  const I all = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}
#else
HWY_INLINE uint32_t MaxMagnitudeBits(const float* x) {
  uint32_t max = 0;
  for (int i = 0; i < kQuantBlockSize; ++i) max = std::max(max, std::bit_cast<uint32_t>(x[i]) & 0x7fffffff);
  return max;
}
HWY_INLINE int32_t RoundBlock(const float* x, float inverse, int8_t* quants) {
  int32_t sum = 0;
  for (int i = 0; i < kQuantBlockSize; ++i) {
    const int32_t q = static_cast<int32_t>(std::nearbyint(x[i] * inverse));
    quants[i] = static_cast<int8_t>(q);
    sum += q;
  }
  return sum;
}
#endif

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace outrider::kernels
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
