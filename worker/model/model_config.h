// ModelConfig: the dimensions of a model, named as in published configurations. Whatever file format they came from,
// the rest of the worker sees only this.
//
// Thread safety: a value.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/rope/rope.h"
#include "worker/model/gguf.h"

namespace outrider {

struct ModelConfig {
  std::string architecture;  // as the file spells it: "llama", "qwen2", "Qwen3ForCausalLM"
  std::string name;          // general.name, for people; may be empty
  int num_layers = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int vocab_size = 0;
  int max_positions = 0;  // context the model was published with
  float rms_norm_epsilon = 0;
  bool tied_embedding = false;         // the head is the embedding table
  bool attention_bias = false;         // q, k and v have biases
  bool attention_output_bias = false;  // the attention's output projection has one
  bool feed_forward_bias = false;      // gate, up and down have biases
  bool qk_norm = false;                // RMSNorm of each head of q and of k before they turn
  // [num_layers] or empty (no layer has one): a row of layer l sees its last layer_windows[l] positions, its own
  // included; 0: all.
  std::vector<int> layer_windows;
  // Row order of Q and K, stated once: GGUF files of the llama architecture hold each head's rows permuted by the
  // converter so that a rotary pair is two neighbouring rows (2p, 2p + 1); so rope.layout is kInterleaved. Hugging Face
  // checkpoints of the same models pair p with p + rotary_dim / 2: kHalves; so do GGUF files of Qwen's architectures,
  // whose rows no converter moves.
  kernels::RopeParams rope;

  int window(int layer) const { return layer_windows.empty() ? 0 : layer_windows[layer]; }
};

// Bounds on what a file may claim; the largest published models stay a factor of two below.
inline constexpr int kMaxLayers = 1024;
inline constexpr int kMaxHiddenSize = 1 << 17;
inline constexpr int kMaxIntermediateSize = 1 << 19;
inline constexpr int kMaxHeads = 4096;
inline constexpr int kMaxVocabSize = 1 << 19;  // kernels/sampling/sample_row.h
inline constexpr int kMaxPositions = 1 << 24;

// INVALID_ARGUMENT naming the first field that is out of range or does not divide, with its value.
absl::Status Validate(const ModelConfig& config);

// The configuration of a GGUF file. Metadata only: tensors are checked when they are loaded.
// Architectures: llama, qwen2 (Qwen 2 and 2.5) and qwen3. Errors name file, key and value: INVALID_ARGUMENT for missing
// or impossible keys, UNIMPLEMENTED for an architecture or feature (experts, an unknown rope scaling, a model in
// several files) that this build does not know.
absl::StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file);

}  // namespace outrider
