// out[r][g] = x[r][g] / sqrt(mean(x[r][g]^2) + epsilon) * weight        (Zhang & Sennrich, arXiv:1910.07467)
//
// A row may hold several groups side by side, each normed by itself with the same weight: num_groups = 1 is the norm of
// a hidden state, num_groups = num_heads the per-head norm of q or k.
//
// One (row, group) is one unit of work: squares are added in 16 lanes (element i in lane i % 16), the lanes folded
// 16 -> 8 -> 4 -> 2 -> 1 by halves. Bits depend on the row alone, and are the same on every instruction set with fma.
// Bound by memory: x is read twice, the second time from cache.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"  // KernelError
#include "kernels/common/thread_pool.h"

namespace outrider::kernels {

struct RmsNormArgs {
  const float* x = nullptr;       // [num_rows, num_groups, group_size]; rows x_stride floats apart
  const float* weight = nullptr;  // [group_size]
  float* out = nullptr;           // [num_rows, num_groups, group_size]; may be x itself, else must not overlap it
  int64_t x_stride = 0;           // floats between rows, >= num_groups * group_size
  int64_t out_stride = 0;
  int num_rows = 0;  // 0 is allowed and does nothing
  int num_groups = 1;
  int group_size = 0;
  float epsilon = 1e-5f;
};

// kInvalidShape: a negative count, group_size < 1, or a stride shorter than a row where there is more than one row;
// kNullPointer. On an error nothing is written.
KernelError RmsNorm(const RmsNormArgs& args, ThreadPool& pool);

// The oracle: plain loops, double accumulator.
KernelError RmsNormReference(const RmsNormArgs& args);

}  // namespace outrider::kernels
