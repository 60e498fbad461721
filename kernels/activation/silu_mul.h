// out[r][i] = silu(gate[r][i]) * up[r][i], silu(z) = z / (1 + exp(-z))     (SwiGLU: Shazeer, arXiv:2002.05202)
//
// Element-wise: an element's bits depend on its gate and up alone. The exponential is math/fast_math-inl.h's, so the
// bits are also the same on every instruction set. Bound by memory; a thread takes a range of a row's columns.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"  // KernelError
#include "kernels/common/thread_pool.h"

namespace outrider::kernels {

struct SiluMulArgs {
  const float* gate = nullptr;  // [num_rows, num_columns]; rows gate_stride floats apart
  const float* up = nullptr;    // [num_rows, num_columns]
  float* out = nullptr;         // [num_rows, num_columns]; may be gate or up itself
  int64_t gate_stride = 0;      // floats between rows, >= num_columns
  int64_t up_stride = 0;
  int64_t out_stride = 0;
  int num_rows = 0;  // 0 is allowed and does nothing
  int num_columns = 0;
};

// kInvalidShape: a negative count, or a stride shorter than a row where there is more than one row; kNullPointer. On an
// error nothing is written.
KernelError SiluMul(const SiluMulArgs& args, ThreadPool& pool);

// The oracle: double arithmetic, std::exp.
KernelError SiluMulReference(const SiluMulArgs& args);

}  // namespace outrider::kernels
