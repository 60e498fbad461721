#include <algorithm>
#include <vector>

#include "kernels/attention/append_kv.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/append_kv_cpu.cc"
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

void Convert(const float* HWY_RESTRICT in, size_t size, float* HWY_RESTRICT out) { std::copy_n(in, size, out); }

void Convert(const float* HWY_RESTRICT in, size_t size, uint16_t* HWY_RESTRICT out) {
  size_t i = 0;
#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128  // those do not round as IEEE does
  const hn::ScalableTag<float> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> dh;
  const hn::RebindToUnsigned<decltype(dh)> du;
  for (; i + hn::Lanes(d) <= size; i += hn::Lanes(d)) {
    hn::StoreU(hn::BitCast(du, hn::DemoteTo(dh, hn::LoadU(d, in + i))), du, out + i);
  }
#endif
  for (; i < size; ++i) out[i] = F32ToF16(in[i]);
}

// Rows [first, end) of a span, all in one block.
template <typename T>
void AppendRows(const AppendKvArgs& args, const AttentionSpan& span, int first, int end) {
  const KvLayout& layout = args.layout;
  const size_t head_dim = static_cast<size_t>(layout.head_dim);
  const size_t block_size = static_cast<size_t>(layout.block_size);
  const int64_t v_row_size = layout.v_row_size();
  const int64_t block = span.block_table[(span.first_position + first) / layout.block_size];
  const size_t first_slot = static_cast<size_t>((span.first_position + first) % layout.block_size);
  T* const k_storage = static_cast<T*>(args.k_storage);
  T* const v_storage = static_cast<T*>(args.v_storage);
  T row[KvLayout::kMaxHeadDim];
  for (int h = 0; h < layout.num_kv_heads; ++h) {
    T* const k_tile = k_storage + layout.k_tile(block, h);
    T* const v_tile = v_storage + layout.v_tile(block, h);
    for (int r = first; r < end; ++r) {
      const int64_t source_row = span.first_row + r;
      const size_t slot = first_slot + static_cast<size_t>(r - first);
      Convert(args.k + source_row * args.k_stride + int64_t{h} * layout.head_dim, head_dim, row);
      for (size_t i = 0; i < head_dim; ++i) k_tile[i * block_size + slot] = row[i];
      T* const v_row = v_tile + static_cast<int64_t>(slot) * v_row_size;
      Convert(args.v + source_row * args.v_stride + int64_t{h} * layout.head_dim, head_dim, v_row);
      std::fill(v_row + head_dim, v_row + v_row_size, T{0});
    }
  }
}

}  // namespace

void AppendToBlock(const AppendKvArgs& args, const AttentionSpan& span, int first, int end) {
  if (args.layout.dtype == DType::kF32) {
    AppendRows<float>(args, span, first, end);
  } else {
    AppendRows<uint16_t>(args, span, first, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace outrider::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace outrider::kernels {
namespace {

HWY_EXPORT(AppendToBlock);

struct BlockRows {
  const AttentionSpan* span;
  int first, end;  // rows of the span
};

}  // namespace

KernelError AppendKv(const AppendKvArgs& args, ThreadPool& pool) {
  const KernelError layout_error = args.layout.Check();
  if (layout_error != KernelError::kOk) return layout_error;
  const int64_t row_size = int64_t{args.layout.num_kv_heads} * args.layout.head_dim;
  const int block_size = args.layout.block_size;
  int64_t num_rows = 0;
  for (const AttentionSpan& span : args.spans) {
    if (span.num_rows < 0 || span.first_row < 0 || span.first_position < 0) return KernelError::kInvalidShape;
    if (span.num_rows == 0) continue;
    if (span.block_table == nullptr) return KernelError::kNullPointer;
    for (int b = span.first_position / block_size; b <= (span.first_position + span.num_rows - 1) / block_size; ++b) {
      if (span.block_table[b] < 0 || span.block_table[b] >= args.layout.num_blocks) return KernelError::kInvalidShape;
    }
    num_rows += span.num_rows;
  }
  if (num_rows == 0) return KernelError::kOk;
  if (num_rows > 1 && std::min(args.k_stride, args.v_stride) < row_size) return KernelError::kInvalidShape;
  if (args.k == nullptr || args.v == nullptr || args.k_storage == nullptr || args.v_storage == nullptr) {
    return KernelError::kNullPointer;
  }

  const auto append = HWY_DYNAMIC_DISPATCH(AppendToBlock);
  std::vector<BlockRows> blocks;
  for (const AttentionSpan& span : args.spans) {
    for (int first = 0; first < span.num_rows;) {
      const int end = std::min(span.num_rows, first + block_size - (span.first_position + first) % block_size);
      blocks.push_back({&span, first, end});
      first = end;
    }
  }
  // A block of 16 rows takes some 2 us, a decode row 0.3 us.
  const int64_t min_blocks = std::max<int64_t>(1, 8 * static_cast<int64_t>(blocks.size()) / num_rows);
  pool.ParallelForRange(static_cast<int64_t>(blocks.size()), min_blocks, [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) {
      const BlockRows& rows = blocks[static_cast<size_t>(i)];
      append(args, *rows.span, rows.first, rows.end);
    }
  });
  return KernelError::kOk;
}

}  // namespace outrider::kernels
#endif  // HWY_ONCE
