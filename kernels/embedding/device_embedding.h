// out[r] = scale * table[token_ids[r]] on a GPU. The table is a DeviceMatrix, so that a model whose head is its
// embedding table holds it once. A row is one unit of work; values are the table's, exactly, times scale.
//
// Thread safety: pure; work is queued in the stream.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"
#include "kernels/gemm/device_gemm.h"  // DeviceMatrix

namespace outrider::kernels {

struct DeviceEmbeddingArgs {
  DeviceMatrix table;                  // [vocab_size, hidden_size]
  const int32_t* token_ids = nullptr;  // [num_rows], device; each in [0, vocab_size)
  float* out = nullptr;                // [num_rows, hidden_size]
  int64_t out_stride = 0;              // elements, even
  int num_rows = 0;                    // 0 is allowed and launches nothing
  float scale = 1.0f;
};

// kInvalidShape: an odd hidden_size or stride, a stride shorter than a row; kNullPointer.
KernelError DeviceEmbedding(const DeviceEmbeddingArgs& args, Stream stream);

}  // namespace outrider::kernels
