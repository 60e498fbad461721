// A step reads as many rows as it has tokens: some hundred nanoseconds each, so DequantizeRow's loops (which the
// compiler vectorises) are enough; rows are shared among threads.
#include "kernels/embedding/embedding.h"

namespace outrider::kernels {
namespace {

// A range takes at least a microsecond.
constexpr int64_t kElementsPerRangeMin = 2048;

}  // namespace

KernelError Embedding(const EmbeddingArgs& args, ThreadPool& pool) {
  if (args.num_rows < 0 || args.hidden_size < 0 || args.vocab_size < 0) return KernelError::kInvalidShape;
  if (args.num_rows == 0 || args.hidden_size == 0) return KernelError::kOk;
  if (args.hidden_size % BlockSize(args.dtype) != 0) return KernelError::kInvalidShape;
  if (args.num_rows > 1 && args.out_stride < args.hidden_size) return KernelError::kInvalidShape;
  if (args.table == nullptr || args.token_ids == nullptr || args.out == nullptr) return KernelError::kNullPointer;
  for (int r = 0; r < args.num_rows; ++r) {
    if (args.token_ids[r] < 0 || args.token_ids[r] >= args.vocab_size) return KernelError::kInvalidShape;
  }
  const int64_t row_bytes = RowBytes(args.dtype, args.hidden_size);
  const int64_t min_rows = (kElementsPerRangeMin + args.hidden_size - 1) / args.hidden_size;
  pool.ParallelForRange(args.num_rows, min_rows, [&](int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
      float* out = args.out + row * args.out_stride;
      const char* source = static_cast<const char*>(args.table) + args.token_ids[row] * row_bytes;
      // Its only error is the row length, checked above.
      (void)DequantizeRow(args.dtype, source, args.hidden_size, out);
      if (args.scale == 1.0f) continue;
      for (int i = 0; i < args.hidden_size; ++i) out[i] *= args.scale;
    }
  });
  return KernelError::kOk;
}

}  // namespace outrider::kernels
