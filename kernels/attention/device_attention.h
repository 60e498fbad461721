// Keys, values and attention on a GPU: the same operations as append_kv.h and paged_attention.h, in F16 storage.
//
// RopeAppend turns q and k by their positions and writes k and v into their slots. DeviceAttention is
// attention of ragged spans over the paged storage: decode, verify and prompt chunks are the same thing.
//
// Order of every sum: a score adds over head_dim ascending, 16 at a time in the tensor cores; positions are cut at
// absolute multiples of kAttentionRangeSize; each range starts its own maximum, its own sum of exponentials (8 a lane
// ascending, then lanes by halves) and its own weighted sum of values (positions ascending, 16 at a time, weights
// rounded to F16); ranges merge ascending. One instruction shape serves any number of query rows, and whether ranges
// are computed by one block or by many changes no bit. So a row's bits depend on its q, its position and the cached
// keys and values alone.
//
// Storage [block][kv_head][slot][head_dim] for keys and for values: what a block of the grid reads is contiguous, and
// the 16-byte pieces of a slot's row are swapped about (DeviceKvLayout::place) so that it can be copied into shared
// memory as it is and read there without two lanes in a bank.
// Values beyond F16's range are clamped to it when written, so a masked position adds zero to every sum.
//
// Kernels read a step's inputs (tiles, block tables, positions, slots), and keys and values of positions before a
// span's first, before the kernel ahead of them has ended: these must have been written by work that ended before that
// kernel began.
//
// Thread safety: pure; work is queued in the stream.
#pragma once

#include <cstdint>

#include "kernels/attention/device_attention_plan.h"
#include "kernels/attention/kv_layout.h"  // kAttentionRangeSize
#include "kernels/common/stream.h"

namespace outrider::kernels {

struct DeviceKvLayout {
  int num_blocks = 0;
  int block_size = 16;  // a power of two, 16 to kAttentionRangeSize
  int num_kv_heads = 0;
  int head_dim = 0;  // 16, 32, 64 or 128

  // Elements before (block, kv_head, slot).
  constexpr int64_t slot(int64_t block, int kv_head, int slot_index) const {
    return ((block * num_kv_heads + kv_head) * block_size + slot_index) * head_dim;
  }
  // Elements from there to element `i` of the slot.
  constexpr int place(int slot_index, int i) const {
    const int spread = head_dim < 64 ? head_dim / 8 : 8;
    return (i / 8 ^ (slot_index / (8 / spread) & (spread - 1))) * 8 + i % 8;
  }
  // Of the keys, or of the values, of a layer.
  constexpr int64_t bytes() const { return slot(num_blocks, 0, 0) * 2; }
  // kInvalidShape unless the fields are as stated.
  KernelError Check() const;
};

struct DeviceRopeAppendArgs {
  // [num_rows, (num_heads + 2 * num_kv_heads) * head_dim] bf16: q, k, v side by side. q is replaced by its turned
  // values in F16, k and v are left as they are.
  uint16_t* qkv = nullptr;
  int64_t qkv_stride = 0;  // elements, a multiple of 8
  int num_rows = 0;
  int num_heads = 0;
  const int32_t* positions = nullptr;  // [num_rows], device
  const int32_t* kv_slots = nullptr;   // [num_rows], device: block * block_size + slot; -1: k and v are not written
  const float* cos_sin = nullptr;      // [positions, rotary_dim]: cos of each pair, then sin of each pair; device
  int rotary_dim = 0;                  // even, <= head_dim; elements from it on are not turned
  bool interleaved = true;             // pairs (2p, 2p + 1), else (p, p + rotary_dim / 2)
  DeviceKvLayout layout;
  void* k_storage = nullptr;  // a layer's keys, layout.bytes()
  void* v_storage = nullptr;
};
KernelError DeviceRopeAppend(const DeviceRopeAppendArgs& args, Stream stream);

// Bytes of the workspace for plans made with `num_partials_max`: partial sums, then counters.
int64_t DeviceAttentionWorkspaceBytes(const DeviceKvLayout& layout, int64_t num_partials_max);

struct DeviceAttentionArgs {
  const uint16_t* q = nullptr;  // [rows, num_heads, head_dim] F16, as DeviceRopeAppend leaves it
  uint16_t* out = nullptr;      // [rows, num_heads, head_dim] bf16; must not overlap q
  int64_t q_stride = 0;         // elements, even
  int64_t out_stride = 0;
  int num_heads = 0;       // a multiple of layout.num_kv_heads
  float scale = 1;         // of scores: 1 / sqrt(head_dim)
  int sliding_window = 0;  // 0: none; else a row sees positions (position - window, position]
  DeviceKvLayout layout;
  const void* k_storage = nullptr;
  const void* v_storage = nullptr;
  const DeviceAttentionTile* tiles = nullptr;  // device copy of plan->tiles()
  const int32_t* block_tables = nullptr;       // device
  const DeviceAttentionPlan* plan = nullptr;
  void* workspace = nullptr;  // zeroed once before its first use
  int64_t num_partials_max = 0;
};
// kInvalidShape: bad layout, heads that do not divide, a negative window.
KernelError DeviceAttention(const DeviceAttentionArgs& args, Stream stream);

// DeviceRopeAppend and then DeviceAttention of the same rows, to the bit; one kernel for few spans of few rows
// (DeviceAttentionPlan::whole_spans), which then leaves q as it was. REQUIRES: args.q is rope.qkv, the rows of the
// plan's spans are 0 to rope.num_rows - 1 and their positions those of rope.positions; layouts and storage are equal.
KernelError DeviceRopeAppendAttend(const DeviceRopeAppendArgs& rope, const DeviceAttentionArgs& args, Stream stream);

}  // namespace outrider::kernels
