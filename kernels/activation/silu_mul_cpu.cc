#include <algorithm>

#include "kernels/activation/silu_mul.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation/silu_mul_cpu.cc"
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

template <class D>
HWY_INLINE void SiluMulVector(D d, const float* gate, const float* up, float* out) {
  const auto z = hn::LoadU(d, gate);
  // Below -87 exp(-z) would be its cap, 1.6e38, and the result a denormal or 0: as it should be.
  const auto denominator = hn::Add(hn::Set(d, 1.0f), Exp(d, hn::Neg(z)));
  hn::StoreU(hn::Mul(hn::Div(z, denominator), hn::LoadU(d, up)), d, out);
}

}  // namespace

void SiluMulColumns(const float* gate, const float* up, float* out, size_t size) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> d1;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= size; i += hn::Lanes(d)) SiluMulVector(d, gate + i, up + i, out + i);
  for (; i < size; ++i) SiluMulVector(d1, gate + i, up + i, out + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace outrider::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace outrider::kernels {
namespace {

HWY_EXPORT(SiluMulColumns);

// Columns of a row that one task takes; small enough to share the one row of a decode step.
constexpr int64_t kColumnsPerTask = 2048;

}  // namespace

KernelError SiluMul(const SiluMulArgs& args, ThreadPool& pool) {
  if (args.num_rows < 0 || args.num_columns < 0) return KernelError::kInvalidShape;
  if (args.num_rows == 0 || args.num_columns == 0) return KernelError::kOk;
  if (args.num_rows > 1 && std::min({args.gate_stride, args.up_stride, args.out_stride}) < int64_t{args.num_columns}) {
    return KernelError::kInvalidShape;
  }
  if (args.gate == nullptr || args.up == nullptr || args.out == nullptr) return KernelError::kNullPointer;
  const auto silu_mul = HWY_DYNAMIC_DISPATCH(SiluMulColumns);
  const int64_t tasks_per_row = (args.num_columns + kColumnsPerTask - 1) / kColumnsPerTask;
  pool.ParallelForRange(args.num_rows * tasks_per_row, 1, [&](int64_t first_task, int64_t end_task) {
    for (int64_t task = first_task; task < end_task; ++task) {
      const int64_t row = task / tasks_per_row;
      const int64_t first = task % tasks_per_row * kColumnsPerTask;
      const int64_t size = std::min(kColumnsPerTask, args.num_columns - first);
      silu_mul(args.gate + row * args.gate_stride + first, args.up + row * args.up_stride + first,
               args.out + row * args.out_stride + first, static_cast<size_t>(size));
    }
  });
  return KernelError::kOk;
}

}  // namespace outrider::kernels
#endif  // HWY_ONCE
