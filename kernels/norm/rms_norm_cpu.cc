#include <cmath>

#include "kernels/norm/rms_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm/rms_norm_cpu.cc"
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#endif
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace outrider::kernels {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Lanes of the sum, whatever the registers.
constexpr size_t kSumLanes = 16;
using D = hn::CappedTag<float, kSumLanes>;
constexpr size_t kLanes = hn::MaxLanes(D());
constexpr size_t kParts = kSumLanes / kLanes;

// Adds the squares of 16 elements, each to its lane.
HWY_INLINE void AddSquares(const float* HWY_RESTRICT x, float* HWY_RESTRICT lanes) {
  const D d;
  for (size_t i = 0; i < kSumLanes; i += kLanes) {
    const auto v = hn::LoadU(d, x + i);
    hn::Store(hn::MulAdd(v, v, hn::Load(d, lanes + i)), d, lanes + i);
  }
}

float SumOfSquares(const float* HWY_RESTRICT x, size_t size) {
  const D d;
  HWY_ALIGN float lanes[kSumLanes] = {};
  size_t i = 0;
  if constexpr (kParts <= 2) {  // the sums stay in registers
    auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
    for (; i + kSumLanes <= size; i += kSumLanes) {
      const auto x0 = hn::LoadU(d, x + i);
      sum0 = hn::MulAdd(x0, x0, sum0);
      if constexpr (kParts == 2) {
        const auto x1 = hn::LoadU(d, x + i + kLanes);
        sum1 = hn::MulAdd(x1, x1, sum1);
      }
    }
    hn::Store(sum0, d, lanes);
    if constexpr (kParts == 2) hn::Store(sum1, d, lanes + kLanes);
  } else {
    for (; i + kSumLanes <= size; i += kSumLanes) AddSquares(x + i, lanes);
  }
  HWY_ALIGN float rest[kSumLanes] = {};  // zeros change no lane
  for (size_t lane = 0; i + lane < size; ++lane) rest[lane] = x[i + lane];
  AddSquares(rest, lanes);
  for (size_t half = kSumLanes / 2; half > 0; half /= 2) {
    for (size_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

void NormGroup(const float* x, const float* HWY_RESTRICT weight, float* out, size_t size, float epsilon) {
  const float mean = SumOfSquares(x, size) / static_cast<float>(size);
  const float inverse = 1.0f / std::sqrt(mean + epsilon);
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, inverse);
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), factor), hn::LoadU(d, weight + i)), d, out + i);
  }
  for (; i < size; ++i) out[i] = x[i] * inverse * weight[i];
}

}  // namespace

void NormRow(const RmsNormArgs& args, int64_t row) {
  const size_t size = static_cast<size_t>(args.group_size);
  for (int g = 0; g < args.num_groups; ++g) {
    const int64_t offset = int64_t{g} * args.group_size;
    NormGroup(args.x + row * args.x_stride + offset, args.weight, args.out + row * args.out_stride + offset, size,
              args.epsilon);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace outrider::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace outrider::kernels {
namespace {

HWY_EXPORT(NormRow);

// A range takes at least a microsecond.
constexpr int64_t kElementsPerRangeMin = 8192;

}  // namespace

KernelError RmsNorm(const RmsNormArgs& args, ThreadPool& pool) {
  if (args.num_rows < 0 || args.num_groups < 0) return KernelError::kInvalidShape;
  if (args.num_rows == 0 || args.num_groups == 0) return KernelError::kOk;
  const int64_t row_size = int64_t{args.num_groups} * args.group_size;
  if (args.group_size < 1 || (args.num_rows > 1 && (args.x_stride < row_size || args.out_stride < row_size))) {
    return KernelError::kInvalidShape;
  }
  if (args.x == nullptr || args.weight == nullptr || args.out == nullptr) return KernelError::kNullPointer;
  const auto norm_row = HWY_DYNAMIC_DISPATCH(NormRow);
  pool.ParallelForRange(args.num_rows, (kElementsPerRangeMin + row_size - 1) / row_size,
                        [&](int64_t first, int64_t end) {
                          for (int64_t row = first; row < end; ++row) norm_row(args, row);
                        });
  return KernelError::kOk;
}

}  // namespace outrider::kernels
#endif  // HWY_ONCE
