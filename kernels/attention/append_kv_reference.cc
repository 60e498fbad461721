#include "kernels/attention/append_kv.h"

namespace outrider::kernels {
namespace {

void Store(DType dtype, float value, void* storage, int64_t index) {
  if (dtype == DType::kF32) {
    static_cast<float*>(storage)[index] = value;
  } else {
    static_cast<uint16_t*>(storage)[index] = F32ToF16(value);
  }
}

}  // namespace

KernelError AppendKvReference(const AppendKvArgs& args) {
  const KvLayout& layout = args.layout;
  for (const AttentionSpan& span : args.spans) {
    for (int r = 0; r < span.num_rows; ++r) {
      const int position = span.first_position + r;
      const int64_t block = span.block_table[position / layout.block_size];
      const int64_t slot = position % layout.block_size;
      const int64_t row = span.first_row + r;
      for (int h = 0; h < layout.num_kv_heads; ++h) {
        for (int i = 0; i < layout.head_dim; ++i) {
          const int64_t element = int64_t{h} * layout.head_dim + i;
          Store(layout.dtype, args.k[row * args.k_stride + element], args.k_storage,
                layout.k_tile(block, h) + i * layout.block_size + slot);
          Store(layout.dtype, args.v[row * args.v_stride + element], args.v_storage,
                layout.v_tile(block, h) + slot * layout.v_row_size() + i);
        }
        for (int64_t i = layout.head_dim; i < layout.v_row_size(); ++i) {
          Store(layout.dtype, 0.0f, args.v_storage, layout.v_tile(block, h) + slot * layout.v_row_size() + i);
        }
      }
    }
  }
  return KernelError::kOk;
}

}  // namespace outrider::kernels
