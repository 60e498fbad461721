// RMSNorm on a GPU, from the fp32 residual stream to the bf16 rows that products read:
//
//   out[i] = bf16(x[r] / sqrt(mean(x[r]^2) + epsilon) * weight),  r = row_indices[i], or i        (arXiv:1910.07467)
//
// A block a row. Thread t of 256 adds the squares of elements 4 t .. 4 t + 3, then those 1024 further on; lanes are
// folded by halves, the 8 warps added ascending. Bits depend on the row alone. Products of one or two rows norm them on
// the way (DeviceNormedRows in device_gemm.h), with the same bits: device_rms_norm.cuh.
//
// Thread safety: pure; work is queued in the stream.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"

namespace outrider::kernels {

struct DeviceRmsNormArgs {
  const float* x = nullptr;              // rows x_stride apart, 16-byte aligned
  const int32_t* row_indices = nullptr;  // [num_rows] or null, device
  const float* weight = nullptr;         // [size]
  uint16_t* out = nullptr;               // [num_rows, size] bf16
  int64_t x_stride = 0;                  // elements, a multiple of 4
  int64_t out_stride = 0;                // a multiple of 4
  int num_rows = 0;                      // 0 is allowed and launches nothing
  int size = 0;                          // a multiple of 4
  float epsilon = 1e-5f;
};

// kInvalidShape: sizes or strides not as stated; kNullPointer.
KernelError DeviceRmsNorm(const DeviceRmsNormArgs& args, Stream stream);

}  // namespace outrider::kernels
