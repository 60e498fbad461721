// out[r] = scale * table[token_ids[r]]: the rows of an embedding table, dequantised.
//
// The table stays in GGUF's row-major encoding, e.g. inside the mapped file. One row is one unit of work; its values
// are those of DequantizeRow, exactly, times scale (1 changes nothing). Bound by memory.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/stream.h"  // KernelError
#include "kernels/common/thread_pool.h"

namespace outrider::kernels {

struct EmbeddingArgs {
  DType dtype = DType::kF32;
  const void* table = nullptr;  // [vocab_size, hidden_size], RowBytes(dtype, hidden_size) a row; any alignment
  int vocab_size = 0;
  int hidden_size = 0;                 // multiple of BlockSize(dtype)
  const int32_t* token_ids = nullptr;  // [num_rows]
  float* out = nullptr;                // [num_rows, hidden_size]; rows out_stride floats apart
  int64_t out_stride = 0;              // floats, >= hidden_size
  int num_rows = 0;                    // 0 is allowed and does nothing
  float scale = 1.0f;                  // Gemma: sqrt(hidden_size)
};

// kInvalidShape: a negative count, a hidden_size that cuts a block, a stride shorter than a row, or a token id outside
// [0, vocab_size); kNullPointer. On an error nothing is written.
KernelError Embedding(const EmbeddingArgs& args, ThreadPool& pool);

// The oracle: DequantizeRow, row by row.
KernelError EmbeddingReference(const EmbeddingArgs& args);

}  // namespace outrider::kernels
