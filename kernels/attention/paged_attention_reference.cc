#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention/paged_attention.h"

namespace outrider::kernels {
namespace {

double Load(DType dtype, const void* storage, int64_t index) {
  return dtype == DType::kF32 ? static_cast<const float*>(storage)[index]
                              : F16ToF32(static_cast<const uint16_t*>(storage)[index]);
}

}  // namespace

KernelError PagedAttentionReference(const PagedAttentionArgs& args) {
  const KvLayout& layout = args.layout;
  const int group = args.num_q_heads / layout.num_kv_heads;
  std::vector<double> scores, sums(static_cast<size_t>(layout.head_dim));
  for (const AttentionSpan& span : args.spans) {
    for (int r = 0; r < span.num_rows; ++r) {
      const int position = span.first_position + r;
      const int first = args.sliding_window > 0 ? std::max(0, position - args.sliding_window + 1) : 0;
      for (int h = 0; h < args.num_q_heads; ++h) {
        const int kv_head = h / group;
        const int64_t row = span.first_row + r;
        const float* q = args.q + row * args.q_stride + int64_t{h} * layout.head_dim;
        float* out = args.out + row * args.out_stride + int64_t{h} * layout.head_dim;

        scores.clear();
        for (int s = first; s <= position; ++s) {
          const int64_t tile = layout.k_tile(span.block_table[s / layout.block_size], kv_head);
          double dot = 0;
          for (int i = 0; i < layout.head_dim; ++i) {
            dot += q[i] * Load(layout.dtype, args.k_storage, tile + i * layout.block_size + s % layout.block_size);
          }
          double score = args.scale * dot;
          if (args.logit_softcap > 0) score = args.logit_softcap * std::tanh(score / args.logit_softcap);
          scores.push_back(score);
        }

        double max = *std::max_element(scores.begin(), scores.end());
        if (args.sinks != nullptr) max = std::max<double>(max, args.sinks[h]);
        double total = args.sinks != nullptr ? std::exp(args.sinks[h] - max) : 0.0;
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int s = first; s <= position; ++s) {
          const double weight = std::exp(scores[static_cast<size_t>(s - first)] - max);
          total += weight;
          const int64_t v_row = layout.v_tile(span.block_table[s / layout.block_size], kv_head) +
                                s % layout.block_size * layout.v_row_size();
          for (int i = 0; i < layout.head_dim; ++i) {
            sums[static_cast<size_t>(i)] += weight * Load(layout.dtype, args.v_storage, v_row + i);
          }
        }
        for (int i = 0; i < layout.head_dim; ++i) out[i] = static_cast<float>(sums[static_cast<size_t>(i)] / total);
      }
    }
  }
  return KernelError::kOk;
}

}  // namespace outrider::kernels
