// Rotary position embedding, in place on q and k                               (Su et al., arXiv:2104.09864)
//
// Pair p of a head at position t turns by t * inv_freq[p]:
//   (a, b) -> attention_factor * (a cos - b sin, a sin + b cos)
// kInterleaved pairs elements (2p, 2p + 1): GGUF's "normal" layout, Llama as converted by llama.cpp.
// kHalves pairs (p, p + rotary_dim / 2): GPT-NeoX, Hugging Face checkpoints.
// Elements from rotary_dim on are left alone.
//
// Frequencies are computed in double and scaled by one of:
//   linear   divided by `factor` (position interpolation, arXiv:2306.15595)
//   llama3   by wavelength: above original_context / low_freq_factor divided by `factor`, below original_context /
//            high_freq_factor kept, blended between (Llama 3.1, transformers `_compute_llama3_parameters`)
//   yarn     blended between kept and divided by `factor` over the pairs that turn beta_fast .. beta_slow times in the
//            original context (Peng et al., arXiv:2309.00071; transformers `_compute_yarn_parameters`)
//   factors  divided by factors[p] (GGUF rope_freqs.weight; LongRoPE's short or long list)
//
// cos and sin of a position come from two tables of doubles, exp(i * 256 * h * f) and exp(i * l * f), multiplied and
// rounded once to float: a function of the position alone, whatever the row, and small for long contexts.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/common/stream.h"  // KernelError
#include "kernels/common/thread_pool.h"

namespace outrider::kernels {

enum class RopeLayout : uint8_t { kInterleaved, kHalves };
enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn, kFactors };

struct RopeParams {
  int rotary_dim = 0;  // even, 2..head_dim: elements of a head that turn
  double base = 10000.0;
  RopeLayout layout = RopeLayout::kInterleaved;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;            // linear, llama3, yarn
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  int original_context = 8192;    // llama3, yarn: positions the model was trained on
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  bool truncate = true;           // yarn: round the blend's ends to whole pairs
  // Multiplies cos and sin. yarn: 0.1 * ln(factor) + 1 unless the checkpoint says otherwise; the caller resolves it.
  double attention_factor = 1.0;
  std::vector<float> factors;  // kFactors: [rotary_dim / 2]
};

// inv_freq[p] of every pair, scaling included. Empty if the parameters do not fit each other.
std::vector<double> RopeFrequencies(const RopeParams& params);

// cos and sin of every position below a bound. Constant once made, so any thread may read it.
class RopeTable {
 public:
  RopeTable() = default;

  // kInvalidShape: rotary_dim odd or < 2, base or factor <= 0, a list of factors of another size, max_positions < 1.
  static KernelError Create(const RopeParams& params, int max_positions, RopeTable* out);

  int rotary_dim() const { return 2 * num_pairs_; }
  int max_positions() const { return max_positions_; }
  RopeLayout layout() const { return layout_; }

  // cos[p], sin[p] for p in [0, rotary_dim / 2). REQUIRES: 0 <= position < max_positions().
  void CosSin(int position, float* cos, float* sin) const;

 private:
  static constexpr int kLowPositions = 256;

  int num_pairs_ = 0;
  int max_positions_ = 0;
  RopeLayout layout_ = RopeLayout::kInterleaved;
  std::vector<double> high_cos_, high_sin_;  // [ceil(max_positions / 256), num_pairs], attention_factor included
  std::vector<double> low_cos_, low_sin_;    // [256, num_pairs]
};

struct RopeArgs {
  float* x = nullptr;                  // [num_rows, num_heads, head_dim]; rows x_stride floats apart
  int64_t x_stride = 0;                // floats, >= num_heads * head_dim
  const int32_t* positions = nullptr;  // [num_rows], each in [0, table->max_positions())
  const RopeTable* table = nullptr;
  int num_rows = 0;   // 0 is allowed and does nothing
  int num_heads = 0;  // q and k heads side by side may go in one call
  int head_dim = 0;   // >= table->rotary_dim()
};

// kInvalidShape: a negative count, head_dim below rotary_dim, a stride shorter than a row, a position outside the
// table; kNullPointer. On an error nothing is written.
KernelError Rope(const RopeArgs& args, ThreadPool& pool);

// The oracle: std::cos and std::sin of position * inv_freq in double, `params` as given to the table.
KernelError RopeReference(const RopeParams& params, const RopeArgs& args);

}  // namespace outrider::kernels
