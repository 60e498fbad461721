// The tensors of the forward pass by what they do, whatever a file format calls them: which a model has, and their
// shapes.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/model/model_config.h"

namespace outrider {

// Those up to kOutputNorm are of no layer.
enum class TensorRole : uint8_t {
  kEmbedding,   // [vocab_size, hidden_size]
  kHead,        // [vocab_size, hidden_size]; the embedding itself where it is tied
  kOutputNorm,  // [hidden_size]
  kAttentionNorm,
  kQ,  // [num_heads * head_dim, hidden_size]
  kK,  // [num_kv_heads * head_dim, hidden_size]
  kV,
  kQBias,
  kKBias,
  kVBias,
  kQNorm,  // [head_dim]
  kKNorm,
  kAttentionOutput,  // [hidden_size, num_heads * head_dim]
  kAttentionOutputBias,
  kFeedForwardNorm,
  kGate,  // [intermediate_size, hidden_size]
  kUp,
  kDown,  // [hidden_size, intermediate_size]
  kGateBias,
  kUpBias,
  kDownBias,
};

constexpr bool IsOfLayer(TensorRole role) { return role > TensorRole::kOutputNorm; }

// Row-major: the last dimension is contiguous. A vector has one dimension.
std::vector<int64_t> ShapeOf(TensorRole role, const ModelConfig& config);

struct TensorPlace {
  TensorRole role = TensorRole::kEmbedding;
  int layer = 0;  // 0 for roles of no layer
};
// All tensors of a model, in the order of the forward pass. A tied head is not listed.
std::vector<TensorPlace> TensorsOf(const ModelConfig& config);

}  // namespace outrider
