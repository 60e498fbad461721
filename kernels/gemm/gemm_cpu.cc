// The CPU products. Everything between HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE is compiled once a target by
// foreach_target.h; the rest once. A group of 16 outputs is `kParts` vectors of `kLanes` floats: one with AVX-512, two
// with AVX2, one plain array elsewhere. Every lane does the same float operations in the same order on all targets.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "kernels/gemm/gemm.h"

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL  // VNNI
#endif
// No fused multiply-add there, so they would have no advantage over the plain code.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm/gemm_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

#ifndef OUTRIDER_KERNELS_GEMM_GEMM_CPU_ONCE
#define OUTRIDER_KERNELS_GEMM_GEMM_CPU_ONCE

namespace outrider::kernels {
namespace {

// Blocks whose largest magnitude is below count as zero: 127 / max must stay finite.
constexpr float kTinyBlock = 1e-30f;

// How far ahead of their use weights are asked for. The processor's own prefetchers follow a stream too, but with some
// hundred instructions a kilobyte they get less far ahead than memory is away: 20-30 % of a one-row product (measured
// on a Sapphire Rapids, 2 to 8 KiB alike or rising).
constexpr int64_t kPrefetchBytes = 8192;

// Up to kRowTile rows of x as a product reads them. `num_rows` values of one k (float) or of one block (quantised) lie
// together, so that a kernel for R rows addresses them with constants.
struct ActivationTile {
  int num_rows = 0;
  bool prefetch_weights = false;        // for the first tile that reads a group
  const float* values = nullptr;        // [K][num_rows]; float weights only
  const int8_t* quants = nullptr;       // [B][num_rows][32]; the rest: quantised weights only
  const float* scales = nullptr;        // [B][num_rows] dx
  const float* sums = nullptr;          // [B][num_rows] dx * sum(q)
  const int32_t* minus_sums = nullptr;  // [B][num_rows] -sum(q)
};

// The same memory, writable.
struct ActivationTileBuffer {
  float* values = nullptr;
  int8_t* quants = nullptr;
  float* scales = nullptr;
  float* sums = nullptr;
  int32_t* minus_sums = nullptr;
};

// Continues the sums of one group and one tile over input features [first_k, end_k), from zero if first_k is 0.
// sums[r * kGroupSize + lane]. Cutting K does not change bits: a sum goes on where it was. Quantised: multiples of 32.
using TileFn = void (*)(const std::byte* group, const GroupLayout& layout, int64_t first_k, int64_t end_k,
                        const ActivationTile& tile, float* sums);

}  // namespace
}  // namespace outrider::kernels

#endif  // OUTRIDER_KERNELS_GEMM_GEMM_CPU_ONCE

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

// Hides from the compiler how `sum` came about. GCC would otherwise regroup a chain of integer sums into a tree whose
// leaves do not fit the registers.
HWY_INLINE void KeepChain(I& sum) { asm("" : "+v"(sum)); }

#if HWY_TARGET == HWY_AVX3_DL

// dot[r] += sum of nibble * x over the block; |x| <= 127.
template <int R>
HWY_INLINE void DotNibbles(const uint8_t* quants, const int8_t* x, I* dot) {
  const I mask = _mm512_set1_epi8(15);
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) {
    const I w = _mm512_loadu_si512(quants + quad * 64);
    const I low = _mm512_and_si512(w, mask);
    const I high = _mm512_and_si512(_mm512_srli_epi16(w, 4), mask);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) dot[r] = _mm512_dpbusd_epi32(dot[r], low, SetQuad(x + r * 32 + quad * 4));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) dot[r] = _mm512_dpbusd_epi32(dot[r], high, SetQuad(x + r * 32 + 16 + quad * 4));
  }
}

// dot[r] = sum of (quant - 128) * x over the block.
template <int R>
HWY_INLINE void DotBytes(const uint8_t* quants, const int8_t* x, const int32_t* minus_sums, I* dot) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) dot[r] = Set1Shifted<7>(minus_sums[r]);
#pragma GCC unroll 8
  for (int quad = 0; quad < 8; ++quad) {
    const I w = _mm512_loadu_si512(quants + quad * 64);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) dot[r] = _mm512_dpbusd_epi32(dot[r], w, SetQuad(x + r * 32 + quad * 4));
  }
}

#else  // AVX3

template <int R>
HWY_INLINE void DotNibbles(const uint8_t* quants, const int8_t* x, I* dot) {
  const I mask = _mm512_set1_epi8(15);
  const I ones = _mm512_set1_epi16(1);
  I pairs[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) pairs[r] = ZeroI();
    // Eight products of pairs fit 16 bits: 8 * 2 * 15 * 127 = 30480.
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) {
    const I w = _mm512_loadu_si512(quants + quad * 64);
    const I low = _mm512_and_si512(w, mask);
    const I high = _mm512_and_si512(_mm512_srli_epi16(w, 4), mask);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      pairs[r] = _mm512_add_epi16(pairs[r], _mm512_maddubs_epi16(low, SetQuad(x + r * 32 + quad * 4)));
      pairs[r] = _mm512_add_epi16(pairs[r], _mm512_maddubs_epi16(high, SetQuad(x + r * 32 + 16 + quad * 4)));
      KeepChain(pairs[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) dot[r] = _mm512_add_epi32(dot[r], _mm512_madd_epi16(pairs[r], ones));
}

template <int R>
HWY_INLINE void DotBytes(const uint8_t* quants, const int8_t* x, const int32_t* /*minus_sums*/, I* dot) {
  const I flip = _mm512_set1_epi8(-128);
  const I ones = _mm512_set1_epi16(1);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) dot[r] = ZeroI();
#pragma GCC unroll 8
  for (int quad = 0; quad < 8; ++quad) {
    // |w| * (x with the sign of w): a pair is at most 2 * 128 * 127 = 32512, so maddubs cannot saturate.
    const I w = _mm512_xor_si512(_mm512_loadu_si512(quants + quad * 64), flip);
    const I magnitude = _mm512_abs_epi8(w);
    const __mmask64 negative = _mm512_movepi8_mask(w);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const I v = SetQuad(x + r * 32 + quad * 4);
      const I pairs = _mm512_maddubs_epi16(magnitude, _mm512_mask_sub_epi8(v, negative, ZeroI(), v));
      dot[r] = _mm512_add_epi32(dot[r], _mm512_madd_epi16(pairs, ones));
      KeepChain(dot[r]);
    }
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
// Hides from the compiler how `sum` came about. GCC would otherwise regroup a chain of integer sums into a tree whose
// leaves do not fit the registers.
HWY_INLINE void KeepChain(I& sum) { asm("" : "+x"(sum)); }
HWY_INLINE I LoadI(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

template <int R>
HWY_INLINE void DotNibbles(const uint8_t* quants, const int8_t* x, I* dot) {
  const I mask = _mm256_set1_epi8(15);
  const I ones = _mm256_set1_epi16(1);
  I pairs[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) pairs[r] = ZeroI();
    // Eight products of pairs fit 16 bits: 8 * 2 * 15 * 127 = 30480.
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) {
    const I w = LoadI(quants + quad * 64);
    const I low = _mm256_and_si256(w, mask);
    const I high = _mm256_and_si256(_mm256_srli_epi16(w, 4), mask);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      pairs[r] = _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(low, SetQuad(x + r * 32 + quad * 4)));
      pairs[r] = _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(high, SetQuad(x + r * 32 + 16 + quad * 4)));
      KeepChain(pairs[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(pairs[r], ones));
}

template <int R>
HWY_INLINE void DotBytes(const uint8_t* quants, const int8_t* x, const int32_t* /*minus_sums*/, I* dot) {
  const I flip = _mm256_set1_epi8(-128);
  const I ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) dot[r] = ZeroI();
#pragma GCC unroll 8
  for (int quad = 0; quad < 8; ++quad) {
    // |w| * (x with the sign of w): a pair is at most 2 * 128 * 127 = 32512, so maddubs cannot saturate.
    const I w = _mm256_xor_si256(LoadI(quants + quad * 64), flip);
    const I magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const I pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(SetQuad(x + r * 32 + quad * 4), w));
      dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(pairs, ones));
      KeepChain(dot[r]);
    }
  }
}

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

constexpr int kLanes = kGroupSize / kParts;

// Asks for [p + kPrefetchBytes, + kBytes), which may lie past the end of the weights, for the second-level cache.
template <int64_t kBytes>
HWY_INLINE void PrefetchAhead(const void* p) {
  // As integers: the address may be outside of any object, which only a prefetch may be given.
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(p) + kPrefetchBytes;
#pragma GCC unroll 8
  for (int64_t line = 0; line < kBytes; line += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(ahead + line), /*rw=*/0, /*locality=*/2);
  }
}

// The same pointer, without what the compiler knows about it.
HWY_INLINE const int8_t* Opaque(const int8_t* p) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  asm volatile("" : "+r"(p));  // volatile, so that two of them are not merged
#endif
  return p;
}

template <DType kDType>
HWY_INLINE F LoadWeights(const std::byte* elements) {
  if constexpr (kDType == DType::kF32) return Load(reinterpret_cast<const float*>(elements));
  if constexpr (kDType == DType::kF16) return LoadF16(reinterpret_cast<const uint16_t*>(elements));
  if constexpr (kDType == DType::kBF16) return LoadBF16(reinterpret_cast<const uint16_t*>(elements));
}

// acc[p][r] = what TileFn's sums hold, or zero.
template <int R>
HWY_INLINE void LoadSums(const float* sums, bool zero, F (&acc)[kParts][R]) {
#pragma GCC unroll 2
  for (int p = 0; p < kParts; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[p][r] = zero ? Zero() : Load(sums + r * kGroupSize + p * kLanes);
  }
}

template <int R>
HWY_INLINE void StoreSums(const F (&acc)[kParts][R], float* sums) {
#pragma GCC unroll 2
  for (int p = 0; p < kParts; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) Store(acc[p][r], sums + r * kGroupSize + p * kLanes);
  }
}

template <DType kDType, int R>
void FloatTile(const std::byte* group, const GroupLayout& /*layout*/, int64_t first_k, int64_t end_k,
               const ActivationTile& tile, float* sums) {
  constexpr int64_t kElementBytes = BlockBytes(kDType);
  // With few accumulators all parts advance together; with many, part by part, so that a part's stay in registers.
  constexpr int64_t kRun = kParts * R <= 12 ? 1 : 64;
  F acc[kParts][R];
  LoadSums<R>(sums, first_k == 0, acc);
  const float* x = tile.values;
  for (int64_t run = first_k; run < end_k; run += kRun) {
    const int64_t end = kRun == 1 ? run + 1 : std::min(run + kRun, end_k);
#pragma GCC unroll 2
    for (int p = 0; p < kParts; ++p) {
      for (int64_t k = run; k < end; ++k) {
        if (p == 0 && tile.prefetch_weights) PrefetchAhead<64>(group + k * kGroupSize * kElementBytes);
        const F w = LoadWeights<kDType>(group + (k * kGroupSize + p * kLanes) * kElementBytes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[p][r] = Fma(w, Set1(x[k * R + r]), acc[p][r]);
      }
    }
  }
  StoreSums<R>(acc, sums);
}

// Adds block `b` to the accumulators of one part: acc[r] of R rows.
template <DType kDType, int R>
HWY_INLINE void AddBlock(const uint16_t* scales, const uint16_t* mins, const uint8_t* quants, int64_t b,
                         const ActivationTile& tile, F* acc) {
  const int8_t* x = tile.quants + b * R * kQuantBlockSize;
  // With many rows the compiler must not see that the parts read the same x: it would keep all its broadcasts between
  // them, in memory for want of registers.
  if constexpr (kParts * R > 6) x = Opaque(x);
  I dot[R];
  if constexpr (kDType == DType::kQ8_0) {
    DotBytes<R>(quants, x, tile.minus_sums + b * R, dot);
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      // Q4_0's values are nibble - 8, so the dot starts at -8 * sum(q).
      dot[r] = kDType == DType::kQ4_0 ? Set1Shifted<3>(tile.minus_sums[b * R + r]) : ZeroI();
    }
    DotNibbles<R>(quants, x, dot);
  }
  const float* x_scales = tile.scales + b * R;
  const F scale = LoadF16(scales);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = Fma(ToFloat(dot[r]), Mul(scale, Set1(x_scales[r])), acc[r]);
  if constexpr (kDType == DType::kQ4_1) {
    const float* x_sums = tile.sums + b * R;
    const F min = LoadF16(mins);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r] = Fma(min, Set1(x_sums[r]), acc[r]);
  }
}

template <DType kDType, int R>
void QuantTile(const std::byte* group, const GroupLayout& layout, int64_t first_k, int64_t end_k,
               const ActivationTile& tile, float* sums) {
  constexpr int64_t kBlockQuantBytes = kGroupSize * (kDType == DType::kQ8_0 ? 32 : 16);
  const int64_t first_block = first_k / kQuantBlockSize;
  const int64_t end_block = end_k / kQuantBlockSize;
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(group) + first_block * kGroupSize;
  const uint16_t* mins = reinterpret_cast<const uint16_t*>(group + layout.mins) + first_block * kGroupSize;
  const uint8_t* quants = reinterpret_cast<const uint8_t*>(group + layout.quants) + first_block * kBlockQuantBytes;
  F acc[kParts][R];
  LoadSums<R>(sums, first_k == 0, acc);
  for (int64_t b = first_block; b < end_block;
       ++b, quants += kBlockQuantBytes, scales += kGroupSize, mins += kGroupSize) {
    if (tile.prefetch_weights) PrefetchAhead<kBlockQuantBytes>(quants);
#pragma GCC unroll 2
    for (int p = 0; p < kParts; ++p) {
      AddBlock<kDType, R>(scales + p * kLanes, mins + p * kLanes, quants + p * kLanes * 4, b, tile, acc[p]);
    }
  }
  StoreSums<R>(acc, sums);
}

template <DType kDType, int R>
constexpr TileFn PickTile() {
  if constexpr (IsQuantized(kDType)) {
    return &QuantTile<kDType, R>;
  } else {
    return &FloatTile<kDType, R>;
  }
}

template <DType kDType>
TileFn TileForRows(int num_rows) {
  static_assert(kRowTile == 8);
  static constexpr TileFn kTiles[kRowTile] = {PickTile<kDType, 1>(), PickTile<kDType, 2>(), PickTile<kDType, 3>(),
                                              PickTile<kDType, 4>(), PickTile<kDType, 5>(), PickTile<kDType, 6>(),
                                              PickTile<kDType, 7>(), PickTile<kDType, 8>()};
  return kTiles[num_rows - 1];
}

// The kernel for `num_rows` rows in [1, kRowTile].
TileFn FindTile(DType dtype, int num_rows) {
  switch (dtype) {
    case DType::kF32:
      return TileForRows<DType::kF32>(num_rows);
    case DType::kF16:
      return TileForRows<DType::kF16>(num_rows);
    case DType::kBF16:
      return TileForRows<DType::kBF16>(num_rows);
    case DType::kQ8_0:
      return TileForRows<DType::kQ8_0>(num_rows);
    case DType::kQ4_0:
      return TileForRows<DType::kQ4_0>(num_rows);
    case DType::kQ4_1:
      return TileForRows<DType::kQ4_1>(num_rows);
  }
  return nullptr;
}

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

void QuantizeTile(const float* x, int64_t x_stride, int num_rows, int64_t in_features,
                  const ActivationTileBuffer& tile) {
  for (int r = 0; r < num_rows; ++r) {
    const float* row = x + r * x_stride;
    for (int64_t b = 0; b < in_features / kQuantBlockSize; ++b, row += kQuantBlockSize) {
      const int64_t i = b * num_rows + r;
      int8_t* quants = tile.quants + i * kQuantBlockSize;
      // Ordered as integers, magnitudes put infinity and NaN last: neither can hide behind the other.
      const float max = std::bit_cast<float>(MaxMagnitudeBits(row));
      float scale = 0;
      int32_t sum = 0;
      if (max >= kTinyBlock && max <= 0x1.fffffep127f) {
        scale = max / 127.0f;
        sum = RoundBlock(row, 127.0f / max, quants);
      } else {
        std::memset(quants, 0, kQuantBlockSize);
        if (!(max < kTinyBlock)) scale = std::bit_cast<float>(0x7fc00000);  // NaN
      }
      tile.scales[i] = scale;
      tile.sums[i] = scale * static_cast<float>(sum);
      tile.minus_sums[i] = -sum;
    }
  }
}

// Adds the bias, applies the epilogue and writes a group of `num_rows` rows, as far as the matrix has outputs.
void WriteOut(const float* sums, const MatMulPart& part, int64_t first_row, int num_rows, int64_t group) {
  const int64_t column = group * kGroupSize;
  const int64_t num_lanes = part.w->out_features() - column;
  const float* bias = part.bias == nullptr ? nullptr : part.bias + column;
  const bool add = part.epilogue == Epilogue::kAdd;
  for (int r = 0; r < num_rows; ++r, sums += kGroupSize) {
    float* out = part.out + (first_row + r) * part.out_stride + column;
    if (num_lanes >= kGroupSize) {
#pragma GCC unroll 2
      for (int i = 0; i < kGroupSize; i += kLanes) {
        F value = Load(sums + i);
        if (bias != nullptr) value = Add(value, Load(bias + i));
        if (add) value = Add(Load(out + i), value);
        Store(value, out + i);
      }
    } else {
      for (int64_t i = 0; i < num_lanes; ++i) {
        const float value = bias != nullptr ? sums[i] + bias[i] : sums[i];
        out[i] = add ? out[i] + value : value;
      }
    }
  }
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace

}  // namespace HWY_NAMESPACE
}  // namespace outrider::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace outrider::kernels {
namespace {

HWY_EXPORT(FindTile);
HWY_EXPORT(QuantizeTile);
HWY_EXPORT(WriteOut);
HWY_EXPORT(TargetName);

constexpr int64_t kAlignment = 64;
// Rows that go through a group while it is in the cache: the weights are read once per so many rows.
constexpr int64_t kRowBlock = 16 * kRowTile;
// Bytes of a tile of activations that go through a group at once: a part of the first-level cache.
constexpr int64_t kTileChunkBytes = 16 << 10;
// Activation elements below which one thread rearranges them alone: about a microsecond of work.
constexpr int64_t kSerialElements = 3072;
// Tasks a thread: enough to even out a late start, few enough that claiming them costs nothing.
constexpr int64_t kTasksPerThread = 6;

int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Activations of a call, one tile of kRowTile rows after the other, each kind in a region of its own.
struct WorkspaceLayout {
  WorkspaceLayout(int64_t num_rows, int64_t in_features) {
    const int64_t per_block = RoundUp(num_rows * (in_features / kQuantBlockSize) * 4);
    scales = RoundUp(num_rows * in_features);
    sums = scales + per_block;
    minus_sums = sums + per_block;
    values = minus_sums + per_block;
    bytes = values + RoundUp(num_rows * in_features * 4);
  }
  // Bytes from the start; quants are at 0.
  int64_t scales, sums, minus_sums, values, bytes;
};

// values[k][r] = x[r][k].
void InterleaveRows(const float* x, int64_t x_stride, int num_rows, int64_t in_features, float* values) {
  for (int r = 0; r < num_rows; ++r) {
    for (int64_t k = 0; k < in_features; ++k) values[k * num_rows + r] = x[r * x_stride + k];
  }
}

// A call after validation: shapes agree and there is work.
class Product {
 public:
  Product(std::span<const MatMulPart> parts, const float* x, int64_t x_stride, int num_rows, std::byte* workspace)
      : parts_(parts), x_(x), x_stride_(x_stride), num_rows_(num_rows), workspace_(workspace) {
    for (const MatMulPart& part : parts) {
      if (part.w->empty()) continue;
      in_features_ = part.w->in_features();
      num_groups_ += part.w->num_groups();
      (IsQuantized(part.w->dtype()) ? any_quantized_ : any_float_) = true;
    }
    layout_ = WorkspaceLayout(num_rows, in_features_);
    // One row of floats is read where it is.
    any_float_ = any_float_ && num_rows > 1;
  }

  bool empty() const { return num_groups_ == 0; }

  void PrepareActivations(ThreadPool& pool) {
    if (!any_quantized_ && !any_float_) return;
    if (num_rows_ * in_features_ <= kSerialElements || num_rows_ == 1) {
      for (int64_t t = 0; t < num_tiles(); ++t) PrepareTile(t);
    } else {
      pool.ParallelFor(num_tiles(), [this](int64_t t) { PrepareTile(t); });
    }
  }

  void Compute(ThreadPool& pool) {
    const int64_t num_tasks_wanted = pool.num_threads() == 1 ? 1 : pool.num_threads() * kTasksPerThread;
    const int64_t groups_per_task = (num_groups_ + num_tasks_wanted - 1) / num_tasks_wanted;
    pool.ParallelFor((num_groups_ + groups_per_task - 1) / groups_per_task, [&](int64_t task) {
      ComputeGroups(task * groups_per_task, std::min((task + 1) * groups_per_task, num_groups_));
    });
  }

 private:
  int64_t num_tiles() const { return (num_rows_ + kRowTile - 1) / kRowTile; }
  int rows_of_tile(int64_t t) const { return static_cast<int>(std::min<int64_t>(kRowTile, num_rows_ - t * kRowTile)); }

  ActivationTileBuffer TileBuffer(int64_t t) const {
    const int64_t first_row = t * kRowTile;
    const int64_t first_block = first_row * (in_features_ / kQuantBlockSize);
    ActivationTileBuffer tile;
    tile.quants = reinterpret_cast<int8_t*>(workspace_) + first_row * in_features_;
    tile.scales = reinterpret_cast<float*>(workspace_ + layout_.scales) + first_block;
    tile.sums = reinterpret_cast<float*>(workspace_ + layout_.sums) + first_block;
    tile.minus_sums = reinterpret_cast<int32_t*>(workspace_ + layout_.minus_sums) + first_block;
    tile.values = reinterpret_cast<float*>(workspace_ + layout_.values) + first_row * in_features_;
    return tile;
  }

  ActivationTile Tile(int64_t t) const {
    const ActivationTileBuffer buffer = TileBuffer(t);
    const float* values = num_rows_ == 1 ? x_ : buffer.values;
    return {rows_of_tile(t), false, values, buffer.quants, buffer.scales, buffer.sums, buffer.minus_sums};
  }

  void PrepareTile(int64_t t) const {
    const ActivationTileBuffer tile = TileBuffer(t);
    const float* x = x_ + t * kRowTile * x_stride_;
    if (any_quantized_) {
      HWY_DYNAMIC_DISPATCH(QuantizeTile)(x, x_stride_, rows_of_tile(t), in_features_, tile);
    }
    if (any_float_) InterleaveRows(x, x_stride_, rows_of_tile(t), in_features_, tile.values);
  }

  // Groups are numbered through all parts.
  void ComputeGroups(int64_t first, int64_t end) const {
    for (const MatMulPart& part : parts_) {
      if (part.w->empty()) continue;
      const int64_t num_groups = part.w->num_groups();
      if (first < num_groups) ComputePart(part, std::max<int64_t>(first, 0), std::min(end, num_groups));
      first -= num_groups;
      end -= num_groups;
      if (end <= 0) return;
    }
  }

  void ComputePart(const MatMulPart& part, int64_t first_group, int64_t end_group) const {
    const PackedMatrix& w = *part.w;
    const GroupLayout layout = GroupLayoutOf(w.dtype(), in_features_);
    const int64_t chunk = kTileChunkBytes / kRowTile / (IsQuantized(w.dtype()) ? 1 : 4);
    const TileFn full_tile = HWY_DYNAMIC_DISPATCH(FindTile)(w.dtype(), kRowTile);
    const TileFn last_tile = HWY_DYNAMIC_DISPATCH(FindTile)(w.dtype(), rows_of_tile(num_tiles() - 1));
    const auto write_out = HWY_DYNAMIC_DISPATCH(WriteOut);
    constexpr int64_t kTilesPerBlock = kRowBlock / kRowTile;
    alignas(kAlignment) float sums[kTilesPerBlock][kRowTile * kGroupSize];
    for (int64_t first_tile = 0; first_tile < num_tiles(); first_tile += kTilesPerBlock) {
      const int64_t end_tile = std::min(first_tile + kTilesPerBlock, num_tiles());
      for (int64_t g = first_group; g < end_group; ++g) {
        for (int64_t k = 0; k < in_features_; k += chunk) {
          const int64_t end_k = std::min(k + chunk, in_features_);
          for (int64_t t = first_tile; t < end_tile; ++t) {
            ActivationTile tile = Tile(t);
            tile.prefetch_weights = t == first_tile;
            (tile.num_rows == kRowTile ? full_tile : last_tile)(w.group(g), layout, k, end_k, tile,
                                                                sums[t - first_tile]);
          }
        }
        for (int64_t t = first_tile; t < end_tile; ++t) {
          write_out(sums[t - first_tile], part, t * kRowTile, rows_of_tile(t), g);
        }
      }
    }
  }

  const std::span<const MatMulPart> parts_;
  const float* const x_;
  const int64_t x_stride_;
  const int num_rows_;
  std::byte* const workspace_;
  WorkspaceLayout layout_{0, 0};
  int64_t in_features_ = 0;
  int64_t num_groups_ = 0;
  bool any_quantized_ = false;
  bool any_float_ = false;
};

// kOk, or why the call cannot run. Sets *in_features to that of all parts, 0 without parts.
KernelError Validate(std::span<const MatMulPart> parts, const float* x, int64_t x_stride, int num_rows,
                     int64_t* in_features) {
  *in_features = 0;
  if (num_rows < 0) return KernelError::kInvalidShape;
  for (const MatMulPart& part : parts) {
    if (part.w == nullptr) return KernelError::kNullPointer;
    if (&part == parts.data()) *in_features = part.w->in_features();
    if (part.w->in_features() != *in_features) return KernelError::kInvalidShape;
    if (num_rows == 0 || part.w->out_features() == 0) continue;
    if (part.out == nullptr) return KernelError::kNullPointer;
    if (num_rows > 1 && (part.out_stride < part.w->out_features() || x_stride < *in_features)) {
      return KernelError::kInvalidShape;
    }
    if (x == nullptr && *in_features > 0) return KernelError::kNullPointer;
  }
  return KernelError::kOk;
}

}  // namespace

// Lets MatMul reach the memory without making it public.
struct GemmWorkspaceAccess {
  static std::byte* data(GemmWorkspace& workspace) { return workspace.data_.get(); }
};

void GemmWorkspace::Free::operator()(std::byte* p) const { std::free(p); }

KernelError GemmWorkspace::Reserve(int64_t num_rows, int64_t in_features) {
  if (num_rows < 0 || in_features < 0) return KernelError::kInvalidShape;
  const int64_t bytes = WorkspaceLayout(num_rows, in_features).bytes;
  if (bytes <= capacity_bytes_) return KernelError::kOk;
  std::byte* data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes));
  if (data == nullptr) return KernelError::kOutOfMemory;
  data_.reset(data);
  capacity_bytes_ = bytes;
  return KernelError::kOk;
}

KernelError MatMul(std::span<const MatMulPart> parts, const float* x, int64_t x_stride, int num_rows, ThreadPool& pool,
                   GemmWorkspace& workspace) {
  int64_t in_features = 0;
  KernelError error = Validate(parts, x, x_stride, num_rows, &in_features);
  if (error != KernelError::kOk || num_rows == 0 || parts.empty()) return error;
  if (in_features == 0) {
    // An empty sum is zero.
    const float zeros[kGroupSize] = {};
    for (const MatMulPart& part : parts) {
      for (int64_t g = 0; g < part.w->num_groups(); ++g) {
        for (int row = 0; row < num_rows; ++row) HWY_DYNAMIC_DISPATCH(WriteOut)(zeros, part, row, 1, g);
      }
    }
    return KernelError::kOk;
  }
  error = workspace.Reserve(num_rows, in_features);
  if (error != KernelError::kOk) return error;
  Product product(parts, x, x_stride, num_rows, GemmWorkspaceAccess::data(workspace));
  if (product.empty()) return KernelError::kOk;
  product.PrepareActivations(pool);
  product.Compute(pool);
  return KernelError::kOk;
}

const char* GemmTargetName() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace outrider::kernels
#endif  // HWY_ONCE
