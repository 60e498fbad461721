// KvLayout says where a position's keys and values lie in a layer's KV storage.
//
// Two arrays a layer, each of num_blocks blocks; a block holds block_size positions of all KV heads of this rank:
//   K  [num_blocks][num_kv_heads][head_dim][block_size]        keys transposed: a score is a sum over rows of
//   positions,
//                                                              so no sum ever runs across a register
//   V  [num_blocks][num_kv_heads][block_size][v_row_size]      v_row_size = head_dim rounded up to 16, zero padded
// Elements are F32 or F16. What lies beyond the positions that a sequence has appended is never used, so storage may
// be reused without clearing it; allocate it 64-byte aligned.
//
// Thread safety: a value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/stream.h"  // KernelError

namespace outrider::kernels {

// Attention forms its partial sums over ranges of this many absolute positions; a block never straddles two.
inline constexpr int kAttentionRangeSize = 256;

struct KvLayout {
  DType dtype = DType::kF32;  // kF32 or kF16
  int num_blocks = 0;
  int block_size = 16;  // positions; a power of two, 1..kAttentionRangeSize; 16 and more are fast
  int num_kv_heads = 0;
  int head_dim = 0;

  int64_t v_row_size() const { return (static_cast<int64_t>(head_dim) + 15) / 16 * 16; }
  int64_t element_bytes() const { return BlockBytes(dtype); }

  // Elements before the K or V tile of (block, kv_head).
  int64_t k_tile(int64_t block, int kv_head) const { return (block * num_kv_heads + kv_head) * head_dim * block_size; }
  int64_t v_tile(int64_t block, int kv_head) const {
    return (block * num_kv_heads + kv_head) * block_size * v_row_size();
  }

  // Bytes of one layer's K and V arrays, and of a block in all of both.
  int64_t k_bytes() const { return k_tile(num_blocks, 0) * element_bytes(); }
  int64_t v_bytes() const { return v_tile(num_blocks, 0) * element_bytes(); }
  int64_t block_bytes() const { return (k_tile(1, 0) + v_tile(1, 0)) * element_bytes(); }

  // kUnsupportedDType or kInvalidShape unless the fields are as stated above.
  KernelError Check() const {
    if (dtype != DType::kF32 && dtype != DType::kF16) return KernelError::kUnsupportedDType;
    const bool power_of_two = block_size > 0 && (block_size & (block_size - 1)) == 0;
    if (!power_of_two || block_size > kAttentionRangeSize || num_blocks < 0 || num_kv_heads < 1 || head_dim < 1 ||
        head_dim > kMaxHeadDim) {
      return KernelError::kInvalidShape;
    }
    return KernelError::kOk;
  }

  static constexpr int kMaxHeadDim = 1024;
};

// Rows [first_row, first_row + num_rows) of a step: consecutive positions of one sequence, from first_position on.
struct AttentionSpan {
  int first_row = 0;
  int num_rows = 0;
  int first_position = 0;
  // block_table[position / block_size] is the block of a position; covers every position before and in the span.
  const int32_t* block_table = nullptr;
};

}  // namespace outrider::kernels
