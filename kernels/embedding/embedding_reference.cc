#include "kernels/embedding/embedding.h"

namespace outrider::kernels {

KernelError EmbeddingReference(const EmbeddingArgs& args) {
  const int64_t row_bytes = RowBytes(args.dtype, args.hidden_size);
  for (int r = 0; r < args.num_rows; ++r) {
    float* out = args.out + r * args.out_stride;
    const KernelError error = DequantizeRow(
        args.dtype, static_cast<const char*>(args.table) + args.token_ids[r] * row_bytes, args.hidden_size, out);
    if (error != KernelError::kOk) return error;
    for (int i = 0; i < args.hidden_size; ++i) out[i] *= args.scale;
  }
  return KernelError::kOk;
}

}  // namespace outrider::kernels
