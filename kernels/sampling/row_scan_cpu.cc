#include <algorithm>
#include <cmath>

#include "kernels/sampling/coupled_noise.h"
#include "kernels/sampling/row_scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sampling/row_scan_cpu.cc"
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#endif
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/math/fast_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace outrider::kernels {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes, so that a block of draws is a whole number of vectors.
using D = hn::CappedTag<float, 16>;
constexpr size_t kLanes = hn::MaxLanes(D());
constexpr float kNone = -std::numeric_limits<float>::infinity();

// ---- noise

// GumbelFromBits: the operations of coupled_noise.cc in the same order.
HWY_INLINE hn::Vec<D> Gumbel(hn::Vec<hn::RebindToUnsigned<D>> bits) {
  const D d;
  const hn::RebindToSigned<D> di;
  const auto x = hn::BitCast(di, bits);
  const auto is_high = hn::Lt(x, hn::Zero(di));  // x >= 2^31
  const auto m = hn::IfThenElse(is_high, hn::Not(x), x);
  const auto f = hn::Mul(hn::Add(hn::ConvertTo(d, m), hn::Set(d, 0.5f)), hn::Set(d, 2.3283064365386963e-10f));
  const auto is_high_f = hn::RebindMask(d, is_high);
  const auto is_small = hn::AndNot(is_high_f, hn::Lt(f, hn::Set(d, 0.29289f)));
  hn::Vec<D> z, exponent;
  SplitForLog(d, hn::IfThenElse(is_high_f, f, hn::Sub(hn::Set(d, 1.0f), f)), &z, &exponent);
  z = hn::IfThenElse(is_small, hn::Neg(f), z);
  exponent = hn::IfThenZeroElse(is_small, exponent);
  const auto exponential = hn::Neg(LogReduced(d, z, exponent));
  return hn::Neg(Log(d, exponential));
}

// At least Gumbel of the same bits: E >= u > (x / 2) * 2^-31, and log2 of a float is at least its bits read as a fixed
// point number. 1e-3 covers all roundings, here and there. x < 2 gives a bound of no use, which is right.
HWY_INLINE hn::Vec<D> GumbelBound(hn::Vec<hn::RebindToUnsigned<D>> bits) {
  const D d;
  const hn::RebindToSigned<D> di;
  const auto half = hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<1>(bits)));
  const auto log2_bits = hn::ConvertTo(d, hn::BitCast(di, half));
  constexpr float kLn2 = 0.69314718f;
  return hn::Sub(hn::Set(d, (31 + 127) * kLn2 + 1e-3f), hn::Mul(log2_bits, hn::Set(d, kLn2 / 8388608.0f)));
}

// Tokens whose draws are made together.
constexpr size_t kBlockTokens = 64;

// draws[i] = bits of token first_token + i. first_token is a multiple of 4.
void DrawBlock(const DrawKey& key, DrawPurpose purpose, uint32_t first_token, uint32_t* HWY_RESTRICT draws) {
#if HWY_TARGET == HWY_SCALAR
  for (uint32_t i = 0; i < kBlockTokens; i += 4) {
    const auto words = Philox4x32({key.position, (first_token + i) / 4, key.lane, static_cast<uint32_t>(purpose)},
                                  {static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)});
    std::copy(words.begin(), words.end(), draws + i);
  }
#else
  // A counter a 64-bit lane; a word is the low half of its lane, the high half is whatever the products left there.
  const hn::CappedTag<uint64_t, 8> d64;
  const hn::Repartition<uint32_t, decltype(d64)> d32;
  const size_t counters = hn::Lanes(d64);
  const auto multiplier0 = hn::Set(d32, kPhiloxMultiplier0);
  const auto multiplier1 = hn::Set(d32, kPhiloxMultiplier1);
  for (size_t i = 0; i < kBlockTokens / 4; i += counters) {
    auto c0 = hn::Set(d64, key.position);
    auto c1 = hn::Iota(d64, first_token / 4 + i);
    auto c2 = hn::Set(d64, key.lane);
    auto c3 = hn::Set(d64, static_cast<uint64_t>(purpose));
    uint32_t key0 = static_cast<uint32_t>(key.seed), key1 = static_cast<uint32_t>(key.seed >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const auto product0 = hn::MulEven(hn::BitCast(d32, c0), multiplier0);
      const auto product1 = hn::MulEven(hn::BitCast(d32, c2), multiplier1);
      c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product1), c1), hn::Set(d64, key0));
      c1 = product1;
      c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product0), c3), hn::Set(d64, key1));
      c3 = product0;
      key0 += kPhiloxWeyl0;
      key1 += kPhiloxWeyl1;
    }
    const auto low_half = hn::Set(d64, 0xFFFFFFFFu);
    const auto words01 = hn::Or(hn::And(c0, low_half), hn::ShiftLeft<32>(c1));
    const auto words23 = hn::Or(hn::And(c2, low_half), hn::ShiftLeft<32>(c3));
    hn::StoreInterleaved2(words01, words23, d64, reinterpret_cast<uint64_t*>(draws + 4 * i));
  }
#endif
}

// ---- weights

constexpr double kGridMagic = 393216.0;  // 1.5 * 2^18: adding it leaves multiples of 2^-34

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE double OnGrid(double weight) { return (weight + kGridMagic) - kGridMagic; }
#endif

}  // namespace

RowExtent ScanExtentT(const float* HWY_RESTRICT logits, size_t size) {
  const D d;
  auto max0 = hn::Set(d, kNone), max1 = max0;
  auto ordered = hn::Eq(max0, max0);  // all; Ne of a NaN with itself is not the same on all targets
  const auto add = [&](auto v, auto& max) HWY_ATTR {
    ordered = hn::And(ordered, hn::Eq(v, v));
    max = hn::IfThenElse(hn::Gt(v, max), v, max);
  };
  size_t i = 0;
  for (; i + 2 * kLanes <= size; i += 2 * kLanes) {
    add(hn::LoadU(d, logits + i), max0);
    add(hn::LoadU(d, logits + i + kLanes), max1);
  }
  RowExtent extent{.max = hn::GetLane(hn::MaxOfLanes(d, hn::Max(max0, max1))), .has_nan = !hn::AllTrue(d, ordered)};
  for (; i < size; ++i) {
    extent.has_nan = extent.has_nan || logits[i] != logits[i];
    if (logits[i] > extent.max) extent.max = logits[i];
  }
  return extent;
}

int32_t FindFirstT(const float* HWY_RESTRICT logits, size_t size, float value) {
  const D d;
  const auto wanted = hn::Set(d, value);
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const intptr_t lane = hn::FindFirstTrue(d, hn::Eq(hn::LoadU(d, logits + i), wanted));
    if (lane >= 0) return static_cast<int32_t>(i) + static_cast<int32_t>(lane);
  }
  for (; i < size; ++i) {
    if (logits[i] == value) return static_cast<int32_t>(i);
  }
  return -1;
}

double SumWeightsT(const float* HWY_RESTRICT logits, size_t size, float scale, float max, float delta_min) {
  double total = 0;
  size_t i = 0;
#if HWY_TARGET == HWY_SCALAR
  const hn::CappedTag<float, 1> d;
  for (; i < size; ++i) {
    const float delta = logits[i] * scale - max;
    if (delta >= delta_min) total += OnGrid(hn::GetLane(Exp(d, hn::Set(d, delta))));
  }
#else
  // Weights of doubles are exact multiples of the grid, so neither lanes nor their order matter.
  const D d;
  const hn::Half<D> dh;
  const hn::Rebind<double, decltype(dh)> dd;
  const auto magic = hn::Set(dd, kGridMagic);
  const auto scale_v = hn::Set(d, scale), max_v = hn::Set(d, max), min_v = hn::Set(d, delta_min);
  auto sum = hn::Zero(dd), sum_high = sum;
  for (; i + kLanes <= size; i += kLanes) {
    const auto delta = hn::Sub(hn::Mul(hn::LoadU(d, logits + i), scale_v), max_v);
    const auto weight = hn::IfThenElseZero(hn::Ge(delta, min_v), Exp(d, delta));
    const auto low = hn::PromoteTo(dd, hn::LowerHalf(dh, weight));
    const auto high = hn::PromoteTo(dd, hn::UpperHalf(dh, weight));
    sum = hn::Add(sum, hn::Sub(hn::Add(low, magic), magic));
    sum_high = hn::Add(sum_high, hn::Sub(hn::Add(high, magic), magic));
  }
  sum = hn::Add(sum, sum_high);
  total = hn::GetLane(hn::SumOfLanes(dd, sum));
  for (; i < size; ++i) {
    const float delta = logits[i] * scale - max;
    if (delta >= delta_min) total += WeightOf(delta);
  }
#endif
  return total;
}

void CollectAtLeastT(const float* HWY_RESTRICT logits, size_t size, float scale, float max, float delta_min,
                     std::vector<SamplingScratch::Candidate>* out) {
  const D d;
  const auto scale_v = hn::Set(d, scale), max_v = hn::Set(d, max), min_v = hn::Set(d, delta_min);
  out->clear();
  const auto take = [&](size_t i) {
    const float scaled = logits[i] * scale;
    if (scaled - max >= delta_min) out->push_back({scaled, static_cast<int32_t>(i)});
  };
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const auto delta = hn::Sub(hn::Mul(hn::LoadU(d, logits + i), scale_v), max_v);
    if (hn::AllFalse(d, hn::Ge(delta, min_v))) continue;
    for (size_t lane = 0; lane < kLanes; ++lane) take(i + lane);
  }
  for (; i < size; ++i) take(i);
}

int32_t CoupledArgMaxT(const float* HWY_RESTRICT logits, size_t size, float scale, const DrawKey& key,
                       DrawPurpose purpose, const TokenFloor& floor, int32_t excluded_id, int32_t likely_id) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  int32_t best_id = -1;
  float best_score = kNone;
  const auto offer = [&](int32_t id, float scaled, float score) {
    if (id == excluded_id || scaled < floor.logit || (scaled == floor.logit && id > floor.last_id)) return;
    if (score > best_score || (score == best_score && best_id >= 0 && id < best_id)) {
      best_score = score;
      best_id = id;
    }
  };
  if (likely_id >= 0) {
    const float scaled = logits[likely_id] * scale;
    offer(likely_id, scaled, CoupledScore(scaled, key, purpose, likely_id));
  }

  const auto scale_v = hn::Set(d, scale);
  const auto floor_v = hn::Set(d, floor.logit);
  HWY_ALIGN uint32_t draws[kBlockTokens];
  HWY_ALIGN float scores[kLanes];
  size_t first = 0;
  for (; first + kBlockTokens <= size; first += kBlockTokens) {
    auto max = hn::LoadU(d, logits + first);
    for (size_t i = kLanes; i < kBlockTokens; i += kLanes) max = hn::Max(max, hn::LoadU(d, logits + first + i));
    // scale is positive and rounding is monotone, so this is the largest logit' of the block.
    max = hn::Mul(max, scale_v);
    const auto reachable = hn::Ge(hn::Add(max, hn::Set(d, kGumbelMax)), hn::Set(d, best_score));
    if (hn::AllFalse(d, hn::And(reachable, hn::Ge(max, floor_v)))) continue;

    DrawBlock(key, purpose, static_cast<uint32_t>(first), draws);
    for (size_t i = 0; i < kBlockTokens; i += kLanes) {
      const auto bits = hn::Load(du, draws + i);
      const auto scaled = hn::Mul(hn::LoadU(d, logits + first + i), scale_v);
      const auto bound = hn::Add(scaled, GumbelBound(bits));
      if (hn::AllFalse(d, hn::Ge(bound, hn::Set(d, best_score)))) continue;
      const auto score = hn::Add(scaled, Gumbel(bits));
      if (hn::AllFalse(d, hn::Ge(score, hn::Set(d, best_score)))) continue;
      hn::Store(score, d, scores);
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const size_t id = first + i + lane;
        offer(static_cast<int32_t>(id), logits[id] * scale, scores[lane]);
      }
    }
  }
  for (; first < size; ++first) {
    const float scaled = logits[first] * scale;
    if (scaled + kGumbelMax < best_score) continue;
    const int32_t id = static_cast<int32_t>(first);
    offer(id, scaled, CoupledScore(scaled, key, purpose, id));
  }
  return best_id;
}

}  // namespace HWY_NAMESPACE
}  // namespace outrider::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace outrider::kernels {

HWY_EXPORT(ScanExtentT);
HWY_EXPORT(FindFirstT);
HWY_EXPORT(SumWeightsT);
HWY_EXPORT(CollectAtLeastT);
HWY_EXPORT(CoupledArgMaxT);

RowExtent ScanExtent(const float* logits, int vocab_size) {
  return HWY_DYNAMIC_DISPATCH(ScanExtentT)(logits, static_cast<size_t>(vocab_size));
}

int32_t FindFirst(const float* logits, int vocab_size, float value) {
  return HWY_DYNAMIC_DISPATCH(FindFirstT)(logits, static_cast<size_t>(vocab_size), value);
}

double WeightOf(float delta) {
  constexpr double kMagic = 393216.0;
  return (static_cast<double>(NoiseExp(delta)) + kMagic) - kMagic;
}

double SumWeights(const float* logits, int vocab_size, float scale, float max, float delta_min) {
  return HWY_DYNAMIC_DISPATCH(SumWeightsT)(logits, static_cast<size_t>(vocab_size), scale, max, delta_min);
}

void CollectAtLeast(const float* logits, int vocab_size, float scale, float max, float delta_min,
                    std::vector<SamplingScratch::Candidate>* out) {
  HWY_DYNAMIC_DISPATCH(CollectAtLeastT)(logits, static_cast<size_t>(vocab_size), scale, max, delta_min, out);
}

int32_t CoupledArgMax(const float* logits, int vocab_size, float scale, const DrawKey& key, DrawPurpose purpose,
                      const TokenFloor& floor, int32_t excluded_id, int32_t likely_id) {
  return HWY_DYNAMIC_DISPATCH(CoupledArgMaxT)(logits, static_cast<size_t>(vocab_size), scale, key, purpose, floor,
                                              excluded_id, likely_id);
}

float CoupledScore(float scaled_logit, const DrawKey& key, DrawPurpose purpose, int32_t token_id) {
  return scaled_logit + GumbelFromBits(Draw(key, purpose, static_cast<uint32_t>(token_id)));
}

}  // namespace outrider::kernels
#endif  // HWY_ONCE
