#include "kernels/rope/rope.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope/rope_cpu.cc"
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

// a cos - b sin and a sin + b cos from two products and one addition each, no fma: the scalar tail and any vector
// length agree.
void RotateHalves(float* HWY_RESTRICT head, const float* HWY_RESTRICT cos, const float* HWY_RESTRICT sin,
                  size_t num_pairs) {
  const hn::ScalableTag<float> d;
  size_t p = 0;
  for (; p + hn::Lanes(d) <= num_pairs; p += hn::Lanes(d)) {
    const auto a = hn::LoadU(d, head + p);
    const auto b = hn::LoadU(d, head + num_pairs + p);
    const auto c = hn::LoadU(d, cos + p);
    const auto s = hn::LoadU(d, sin + p);
    hn::StoreU(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), d, head + p);
    hn::StoreU(hn::Add(hn::Mul(a, s), hn::Mul(b, c)), d, head + num_pairs + p);
  }
  for (; p < num_pairs; ++p) {
    const float a = head[p], b = head[num_pairs + p];
    head[p] = a * cos[p] - b * sin[p];
    head[num_pairs + p] = a * sin[p] + b * cos[p];
  }
}

void RotateInterleaved(float* HWY_RESTRICT head, const float* HWY_RESTRICT cos, const float* HWY_RESTRICT sin,
                       size_t num_pairs) {
  const hn::ScalableTag<float> d;
  size_t p = 0;
  for (; p + hn::Lanes(d) <= num_pairs; p += hn::Lanes(d)) {
    hn::Vec<decltype(d)> a, b;
    hn::LoadInterleaved2(d, head + 2 * p, a, b);
    const auto c = hn::LoadU(d, cos + p);
    const auto s = hn::LoadU(d, sin + p);
    hn::StoreInterleaved2(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), hn::Add(hn::Mul(a, s), hn::Mul(b, c)), d,
                          head + 2 * p);
  }
  for (; p < num_pairs; ++p) {
    const float a = head[2 * p], b = head[2 * p + 1];
    head[2 * p] = a * cos[p] - b * sin[p];
    head[2 * p + 1] = a * sin[p] + b * cos[p];
  }
}

}  // namespace

void RotateHeads(RopeLayout layout, float* row, int num_heads, int head_dim, const float* cos, const float* sin,
                 size_t num_pairs) {
  for (int h = 0; h < num_heads; ++h) {
    float* head = row + int64_t{h} * head_dim;
    if (layout == RopeLayout::kHalves) {
      RotateHalves(head, cos, sin, num_pairs);
    } else {
      RotateInterleaved(head, cos, sin, num_pairs);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace outrider::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace outrider::kernels {
namespace {

HWY_EXPORT(RotateHeads);

// A range takes at least a microsecond.
constexpr int64_t kElementsPerRangeMin = 4096;
// Pairs whose cos and sin fit the stack; longer heads allocate.
constexpr size_t kStackPairs = 256;

}  // namespace

KernelError Rope(const RopeArgs& args, ThreadPool& pool) {
  if (args.num_rows < 0 || args.num_heads < 0) return KernelError::kInvalidShape;
  if (args.num_rows == 0 || args.num_heads == 0) return KernelError::kOk;
  if (args.x == nullptr || args.positions == nullptr || args.table == nullptr) return KernelError::kNullPointer;
  const RopeTable& table = *args.table;
  const int64_t row_size = int64_t{args.num_heads} * args.head_dim;
  if (table.rotary_dim() == 0 || args.head_dim < table.rotary_dim()) return KernelError::kInvalidShape;
  if (args.num_rows > 1 && args.x_stride < row_size) return KernelError::kInvalidShape;
  for (int r = 0; r < args.num_rows; ++r) {
    if (args.positions[r] < 0 || args.positions[r] >= table.max_positions()) return KernelError::kInvalidShape;
  }
  const auto rotate_heads = HWY_DYNAMIC_DISPATCH(RotateHeads);
  const size_t num_pairs = static_cast<size_t>(table.rotary_dim() / 2);
  const int64_t min_rows = (kElementsPerRangeMin + row_size - 1) / row_size;
  pool.ParallelForRange(args.num_rows, min_rows, [&](int64_t first, int64_t end) {
    float stack[2 * kStackPairs];
    std::vector<float> heap(num_pairs > kStackPairs ? 2 * num_pairs : 0);
    float* const cos = heap.empty() ? stack : heap.data();
    float* const sin = cos + num_pairs;
    for (int64_t row = first; row < end; ++row) {
      table.CosSin(args.positions[row], cos, sin);
      rotate_heads(table.layout(), args.x + row * args.x_stride, args.num_heads, args.head_dim, cos, sin, num_pairs);
    }
  });
  return KernelError::kOk;
}

}  // namespace outrider::kernels
#endif  // HWY_ONCE
