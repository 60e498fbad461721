// RMSNorm of each head of q and k by itself, in place, before they turn (Qwen 3):
//
//   x[r][h] = bf16(x[r][h] / sqrt(mean(x[r][h]^2) + epsilon) * weight),  one weight for q's heads, one for k's
//
// A warp a head. Lane l adds the squares of elements l, l + 32, ...; lanes are folded by halves. Bits depend on the
// head alone.
//
// Thread safety: pure; work is queued in the stream.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"

namespace outrider::kernels {

struct DeviceHeadNormArgs {
  uint16_t* qk = nullptr;  // [num_rows, (num_q_heads + num_k_heads) * head_dim] bf16, q's heads before k's
  int64_t stride = 0;      // elements between rows
  int num_rows = 0;        // 0 is allowed and launches nothing
  int num_q_heads = 0;
  int num_k_heads = 0;
  int head_dim = 0;
  const float* q_weight = nullptr;  // [head_dim]
  const float* k_weight = nullptr;
  float epsilon = 1e-5f;
};

// kInvalidShape: counts below 1 (rows below 0), a stride shorter than a row; kNullPointer.
KernelError DeviceHeadNorm(const DeviceHeadNormArgs& args, Stream stream);

}  // namespace outrider::kernels
