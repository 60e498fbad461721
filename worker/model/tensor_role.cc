#include "worker/model/tensor_role.h"

namespace outrider {

std::vector<int64_t> ShapeOf(TensorRole role, const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  switch (role) {
    case TensorRole::kEmbedding:
    case TensorRole::kHead:
      return {config.vocab_size, hidden};
    case TensorRole::kOutputNorm:
    case TensorRole::kAttentionNorm:
    case TensorRole::kFeedForwardNorm:
    case TensorRole::kAttentionOutputBias:
    case TensorRole::kDownBias:
      return {hidden};
    case TensorRole::kQ:
      return {q, hidden};
    case TensorRole::kK:
    case TensorRole::kV:
      return {kv, hidden};
    case TensorRole::kQBias:
      return {q};
    case TensorRole::kKBias:
    case TensorRole::kVBias:
      return {kv};
    case TensorRole::kQNorm:
    case TensorRole::kKNorm:
      return {config.head_dim};
    case TensorRole::kAttentionOutput:
      return {hidden, q};
    case TensorRole::kGate:
    case TensorRole::kUp:
      return {intermediate, hidden};
    case TensorRole::kDown:
      return {hidden, intermediate};
    case TensorRole::kGateBias:
    case TensorRole::kUpBias:
      return {intermediate};
  }
  return {};
}

std::vector<TensorPlace> TensorsOf(const ModelConfig& config) {
  std::vector<TensorPlace> places = {{TensorRole::kEmbedding}};
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const auto add = [&](bool has, std::initializer_list<TensorRole> roles) {
      if (!has) return;
      for (const TensorRole role : roles) places.push_back({role, layer});
    };
    add(true, {TensorRole::kAttentionNorm, TensorRole::kQ, TensorRole::kK, TensorRole::kV});
    add(config.attention_bias, {TensorRole::kQBias, TensorRole::kKBias, TensorRole::kVBias});
    add(config.qk_norm, {TensorRole::kQNorm, TensorRole::kKNorm});
    add(true, {TensorRole::kAttentionOutput});
    add(config.attention_output_bias, {TensorRole::kAttentionOutputBias});
    add(true, {TensorRole::kFeedForwardNorm, TensorRole::kGate, TensorRole::kUp, TensorRole::kDown});
    add(config.feed_forward_bias, {TensorRole::kGateBias, TensorRole::kUpBias, TensorRole::kDownBias});
  }
  places.push_back({TensorRole::kOutputNorm});
  if (!config.tied_embedding) places.push_back({TensorRole::kHead});
  return places;
}

}  // namespace outrider
