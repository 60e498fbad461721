// Writes the keys and values of a step's rows into their slots of the KV storage, converting to its element type
// (F16: round to nearest even; beyond its range becomes infinity).
//
// A slot's bits depend on its row alone. Bound by memory.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/attention/kv_layout.h"
#include "kernels/common/thread_pool.h"

namespace outrider::kernels {

struct AppendKvArgs {
  const float* k = nullptr;  // [rows, num_kv_heads, head_dim]; rows k_stride floats apart
  const float* v = nullptr;  // [rows, num_kv_heads, head_dim]
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  KvLayout layout;
  void* k_storage = nullptr;  // a layer's K array, layout.k_bytes()
  void* v_storage = nullptr;
  std::span<const AttentionSpan> spans;  // no two write the same slot
};

// kInvalidShape: bad layout, a negative number in a span, a block number outside [0, num_blocks), a stride shorter than
// a row; kUnsupportedDType; kNullPointer. On an error nothing is written.
KernelError AppendKv(const AppendKvArgs& args, ThreadPool& pool);

// The oracle: one element at a time.
KernelError AppendKvReference(const AppendKvArgs& args);

}  // namespace outrider::kernels
