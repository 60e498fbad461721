// Attention of spans of query rows over a paged KV cache: decode, verify and prompt are the same thing.
//
//   out[r][h] = sum over positions s of softmax_s(scale * q[r][h] . k[s][h / group]) * v[s][h / group]
// where s runs over 0..position of r, or its last sliding_window positions. Grouped query heads (Ainslie et al.,
// arXiv:2305.13245): num_q_heads / num_kv_heads heads share a KV head and are computed together. Pages as in Kwon et
// al., arXiv:2309.06180; ranges merge as in Dao et al., arXiv:2205.14135.
//
// Order of every sum, fixed: a score adds over head_dim ascending; positions are cut at absolute multiples of
// kAttentionRangeSize; each range starts its own maximum, its own sum of exponentials (16 lanes by position % 16,
// folded by halves) and its own weighted sum of values (positions ascending); ranges merge ascending. So a row's bits
// depend on its q, its position and the cached keys and values alone: not on the other rows of its span or tile, the
// span it is in, the threads, or how ranges were given to threads.
//
// Decode is bound by memory (KV is read once for all heads of a group); prompts by arithmetic (tiles of several rows
// and heads share each load of K and V).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/attention/kv_layout.h"
#include "kernels/common/thread_pool.h"

namespace outrider::kernels {

struct PagedAttentionArgs {
  const float* q = nullptr;  // [rows, num_q_heads, head_dim]; rows q_stride floats apart
  float* out = nullptr;      // [rows, num_q_heads, head_dim]; must not overlap q unless it is q with equal strides
  int64_t q_stride = 0;      // floats, >= num_q_heads * head_dim
  int64_t out_stride = 0;
  int num_q_heads = 0;  // multiple of layout.num_kv_heads
  KvLayout layout;
  const void* k_storage = nullptr;  // a layer's K array; the spans' own keys appended
  const void* v_storage = nullptr;
  std::span<const AttentionSpan> spans;  // rows that no span covers are left alone
  float scale = 1.0f;                    // usually 1 / sqrt(head_dim)
  int sliding_window = 0;                // 0: none; else a row sees positions (position - window, position]
  float logit_softcap = 0.0f;            // 0: none; else scores become cap * tanh(score / cap) (Gemma 2)
  // [num_q_heads] or null: a logit a head that takes part in the softmax but has no value (gpt-oss).
  const float* sinks = nullptr;
};

// Scratch memory of PagedAttention. Grows when a larger call comes.
//
// Thread safety: none; one per concurrent caller.
class AttentionWorkspace {
 public:
  AttentionWorkspace() = default;
  AttentionWorkspace(AttentionWorkspace&&) = default;
  AttentionWorkspace& operator=(AttentionWorkspace&&) = default;

 private:
  friend struct AttentionWorkspaceAccess;
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  int64_t capacity_bytes_ = 0;
};

// kInvalidShape: bad layout, heads that do not divide, a stride shorter than a row, a negative number in a span, a
// block number outside [0, num_blocks) among those it reads; kUnsupportedDType; kNullPointer; kOutOfMemory. On an error
// nothing is written.
KernelError PagedAttention(const PagedAttentionArgs& args, ThreadPool& pool, AttentionWorkspace& workspace);

// The oracle: two passes over all positions, double accumulators, std::exp.
KernelError PagedAttentionReference(const PagedAttentionArgs& args);

}  // namespace outrider::kernels
