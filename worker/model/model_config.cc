#include "worker/model/model_config.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/attention/kv_layout.h"

namespace outrider {
namespace {

absl::Status CheckRange(absl::string_view field, int64_t value, int64_t first, int64_t last) {
  if (value >= first && value <= last) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("model configuration: ", field, " is ", value, ", outside ", first, " to ", last));
}

// What an architecture of llama.cpp means beyond its keys. Sources, ggml-org/llama.cpp: key and tensor names,
// `MODEL_ARCH` and `MODEL_TENSORS` in gguf-py/gguf/constants.py; what is optional, src/models/{llama,qwen2,qwen3}.cpp;
// which pairs turn, llama_model_rope_type in src/llama-model.cpp (NORM and NEOX); what converters write,
// conversion/qwen.py.
struct GgufFamily {
  const char* architecture;
  kernels::RopeLayout rope_layout;  // kHalves: rows of q and k in Hugging Face's order; see ModelConfig::rope
  bool attention_bias;              // always; of others, where the file has the tensors
  bool qk_norm;
  // As llama.cpp has it of Qwen's: whole heads turn, rope_freqs.weight means nothing, epsilon is never left out.
  bool is_strict;
};
constexpr GgufFamily kFamilies[] = {
    {"llama", kernels::RopeLayout::kInterleaved, false, false, false},
    {"qwen2", kernels::RopeLayout::kHalves, true, false, true},
    {"qwen3", kernels::RopeLayout::kHalves, false, true, true},
};
constexpr char kServed[] = "this build serves llama, qwen2 (also Qwen 2.5) and qwen3, all dense";

absl::StatusOr<const GgufFamily*> FindFamily(const GgufFile& file) {
  if (!file.Has("general.architecture")) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": metadata key 'general.architecture' is missing, so this is no model; ", kServed));
  }
  ASSIGN_OR_RETURN(const absl::string_view architecture, file.GetString("general.architecture"));
  for (const GgufFamily& family : kFamilies) {
    if (architecture == family.architecture) return &family;
  }
  const bool experts = absl::EndsWith(architecture, "moe");
  return absl::UnimplementedError(absl::StrCat(file.path(), ": metadata key 'general.architecture' is '",
                                               architecture.substr(0, 64), "', ",
                                               experts ? "a mixture of experts" : "unknown here", "; ", kServed));
}

// Typed reads of one architecture's keys ("llama.block_count").
class Keys {
 public:
  Keys(const GgufFile& file, const std::string& architecture) : file_(file), prefix_(architecture + ".") {}

  std::string Name(absl::string_view suffix) const { return absl::StrCat(prefix_, suffix); }
  bool Has(absl::string_view suffix) const { return file_.Has(Name(suffix)); }

  absl::StatusOr<int> Int(absl::string_view suffix, int64_t first, int64_t last) const {
    if (!Has(suffix)) return Missing(suffix, absl::StrCat("a whole number from ", first, " to ", last));
    ASSIGN_OR_RETURN(const int64_t value, file_.GetInt(Name(suffix)));
    return InRange(suffix, value, first, last);
  }
  absl::StatusOr<int> IntOr(absl::string_view suffix, int64_t if_missing, int64_t first, int64_t last) const {
    ASSIGN_OR_RETURN(const int64_t value, file_.GetInt(Name(suffix), if_missing));
    return InRange(suffix, value, first, last);
  }
  // (0, last]
  absl::StatusOr<double> PositiveOr(absl::string_view suffix, double if_missing, double last) const {
    ASSIGN_OR_RETURN(const double value, file_.GetFloat(Name(suffix), if_missing));
    if (!(value > 0) || value > last) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_.path(), ": metadata key '", Name(suffix), "' is ", value, ", outside 0 to ", last));
    }
    return value;
  }
  absl::Status Missing(absl::string_view suffix, absl::string_view wanted) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": metadata key '", Name(suffix),
                                                   "' is missing; it is ", wanted,
                                                   ". Convert the model again, or use another file of it"));
  }

 private:
  absl::StatusOr<int> InRange(absl::string_view suffix, int64_t value, int64_t first, int64_t last) const {
    if (value < first || value > last) {
      return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": metadata key '", Name(suffix), "' is ", value,
                                                     ", outside ", first, " to ", last));
    }
    return static_cast<int>(value);
  }

  const GgufFile& file_;
  const std::string prefix_;
};

// rope.* keys and the rope_freqs.weight tensor, by which converters carry Llama 3.1's scaling.
absl::Status ReadRope(const GgufFile& file, const GgufFamily& family, const Keys& keys, ModelConfig& config) {
  constexpr double kLarge = 1e12;
  kernels::RopeParams& rope = config.rope;
  rope.layout = family.rope_layout;
  ASSIGN_OR_RETURN(rope.rotary_dim, keys.IntOr("rope.dimension_count", config.head_dim, 2, config.head_dim));
  if (family.is_strict && rope.rotary_dim != config.head_dim) {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": metadata key '", keys.Name("rope.dimension_count"),
                                                 "' is ", rope.rotary_dim, "; of this architecture it is the head's ",
                                                 config.head_dim));
  }
  ASSIGN_OR_RETURN(rope.base, keys.PositiveOr("rope.freq_base", 10000.0, kLarge));

  // Older files have rope.scale_linear instead of a type and a factor.
  const bool old_linear = keys.Has("rope.scale_linear");
  ASSIGN_OR_RETURN(const absl::string_view type,
                   file.GetString(keys.Name("rope.scaling.type"), old_linear ? "linear" : "none"));
  ASSIGN_OR_RETURN(rope.factor, keys.PositiveOr(old_linear ? "rope.scale_linear" : "rope.scaling.factor", 1.0, kLarge));
  if (type == "none") {
    rope.scaling = kernels::RopeScaling::kNone;
    rope.factor = 1.0;
  } else if (type == "linear") {
    rope.scaling = kernels::RopeScaling::kLinear;
  } else if (type == "yarn") {
    rope.scaling = kernels::RopeScaling::kYarn;
    ASSIGN_OR_RETURN(rope.original_context,
                     keys.IntOr("rope.scaling.original_context_length", config.max_positions, 1, kMaxPositions));
    ASSIGN_OR_RETURN(rope.beta_fast, keys.PositiveOr("rope.scaling.yarn_beta_fast", 32.0, kLarge));
    ASSIGN_OR_RETURN(rope.beta_slow, keys.PositiveOr("rope.scaling.yarn_beta_slow", 1.0, kLarge));
    ASSIGN_OR_RETURN(const double factor, keys.PositiveOr("rope.scaling.attn_factor", 1.0, 1e3));
    rope.attention_factor = factor * (rope.factor <= 1.0 ? 1.0 : 0.1 * std::log(rope.factor) + 1.0);
  } else {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": metadata key '", keys.Name("rope.scaling.type"),
                                                 "' is '", type,
                                                 "'; this build knows none, linear, yarn, and rope_freqs.weight"));
  }

  const GgufTensor* freqs = file.FindTensor("rope_freqs.weight");
  if (freqs == nullptr) return absl::OkStatus();
  if (family.is_strict) {
    return absl::UnimplementedError(absl::StrCat(file.path(),
                                                 ": tensor 'rope_freqs.weight' is not known in the architecture '",
                                                 family.architecture, "'; scaling is in its rope.scaling keys"));
  }
  if (freqs->type.id != 0 || freqs->num_dims != 1 || freqs->dims[0] != rope.rotary_dim / 2) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor 'rope_freqs.weight' is ", freqs->type.name,
                                                   " ", freqs->ShapeString(), ", not F32 [", rope.rotary_dim / 2, "]"));
  }
  if (rope.scaling != kernels::RopeScaling::kNone && rope.factor != 1.0) {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": both rope.scaling.type '", type,
                                                 "' and tensor 'rope_freqs.weight'; only one of them is known"));
  }
  rope.scaling = kernels::RopeScaling::kFactors;
  rope.factors.resize(freqs->dims[0]);
  std::memcpy(rope.factors.data(), freqs->data, static_cast<size_t>(freqs->bytes));
  for (const float factor : rope.factors) {
    if (!std::isfinite(factor) || factor <= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": tensor 'rope_freqs.weight' holds ", factor, ", not a positive number"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const ModelConfig& config) {
  RETURN_IF_ERROR(CheckRange("num_layers", config.num_layers, 1, kMaxLayers));
  RETURN_IF_ERROR(CheckRange("hidden_size", config.hidden_size, 1, kMaxHiddenSize));
  RETURN_IF_ERROR(CheckRange("intermediate_size", config.intermediate_size, 1, kMaxIntermediateSize));
  RETURN_IF_ERROR(CheckRange("num_heads", config.num_heads, 1, kMaxHeads));
  RETURN_IF_ERROR(CheckRange("num_kv_heads", config.num_kv_heads, 1, config.num_heads));
  RETURN_IF_ERROR(CheckRange("head_dim", config.head_dim, 2, kernels::KvLayout::kMaxHeadDim));
  RETURN_IF_ERROR(CheckRange("vocab_size", config.vocab_size, 1, kMaxVocabSize));
  RETURN_IF_ERROR(CheckRange("max_positions", config.max_positions, 1, kMaxPositions));
  RETURN_IF_ERROR(CheckRange("rope.rotary_dim", config.rope.rotary_dim, 2, config.head_dim));
  if (config.num_heads % config.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("model configuration: num_heads ", config.num_heads,
                                                   " is no multiple of num_kv_heads ", config.num_kv_heads));
  }
  if (config.rope.rotary_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model configuration: rope.rotary_dim ", config.rope.rotary_dim, " is odd"));
  }
  if (!(config.rms_norm_epsilon > 0) || config.rms_norm_epsilon > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("model configuration: rms_norm_epsilon is ", config.rms_norm_epsilon, ", outside 0 to 1"));
  }
  if (!config.layer_windows.empty() && config.layer_windows.size() != static_cast<size_t>(config.num_layers)) {
    return absl::InvalidArgumentError(absl::StrCat("model configuration: ", config.layer_windows.size(),
                                                   " sliding windows for ", config.num_layers, " layers"));
  }
  for (const int window : config.layer_windows) RETURN_IF_ERROR(CheckRange("sliding_window", window, 0, kMaxPositions));
  if (kernels::RopeFrequencies(config.rope).empty()) {
    return absl::InvalidArgumentError(absl::StrCat("model configuration: rope parameters do not fit each other (base ",
                                                   config.rope.base, ", factor ", config.rope.factor, ")"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file) {
  ModelConfig config;
  ASSIGN_OR_RETURN(const GgufFamily* family, FindFamily(file));
  config.architecture = family->architecture;
  // Parts that llama-gguf-split made: only the first has the metadata, each has some of the tensors.
  ASSIGN_OR_RETURN(const int64_t num_parts, file.GetInt("split.count", 0));
  if (num_parts > 1) {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": metadata key 'split.count' is ", num_parts,
                                                 ": the model is in several files; join them with llama.cpp's "
                                                 "llama-gguf-split --merge"));
  }
  ASSIGN_OR_RETURN(const absl::string_view name, file.GetString("general.name", ""));
  config.name = std::string(name.substr(0, 256));

  const Keys keys(file, config.architecture);
  ASSIGN_OR_RETURN(config.num_layers, keys.Int("block_count", 1, kMaxLayers));
  ASSIGN_OR_RETURN(config.hidden_size, keys.Int("embedding_length", 1, kMaxHiddenSize));
  ASSIGN_OR_RETURN(config.intermediate_size, keys.Int("feed_forward_length", 1, kMaxIntermediateSize));
  ASSIGN_OR_RETURN(config.num_heads, keys.Int("attention.head_count", 1, kMaxHeads));
  ASSIGN_OR_RETURN(config.num_kv_heads, keys.IntOr("attention.head_count_kv", config.num_heads, 1, kMaxHeads));
  ASSIGN_OR_RETURN(config.max_positions, keys.Int("context_length", 1, kMaxPositions));
  if (config.num_heads % config.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": metadata key '", keys.Name("attention.head_count"),
                                                   "' is ", config.num_heads, ", no multiple of '",
                                                   keys.Name("attention.head_count_kv"), "' = ", config.num_kv_heads));
  }
  if (!keys.Has("attention.key_length") && config.hidden_size % config.num_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": metadata key '", keys.Name("embedding_length"),
                                                   "' is ", config.hidden_size, ", no multiple of '",
                                                   keys.Name("attention.head_count"), "' = ", config.num_heads,
                                                   ", and 'attention.key_length' is missing"));
  }
  ASSIGN_OR_RETURN(config.head_dim, keys.IntOr("attention.key_length", config.hidden_size / config.num_heads, 2,
                                               kernels::KvLayout::kMaxHeadDim));
  ASSIGN_OR_RETURN(const int value_length, keys.IntOr("attention.value_length", config.head_dim, 1, kMaxHiddenSize));
  if (value_length != config.head_dim) {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": metadata key '", keys.Name("attention.value_length"),
                                                 "' is ", value_length, ", other than the key length ",
                                                 config.head_dim));
  }
  ASSIGN_OR_RETURN(const int num_experts, keys.IntOr("expert_count", 0, 0, kMaxIntermediateSize));
  if (num_experts > 0) {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": metadata key '", keys.Name("expert_count"), "' is ",
                                                 num_experts, "; mixtures of experts are not supported"));
  }
  if (family->is_strict && !keys.Has("attention.layer_norm_rms_epsilon")) {
    return keys.Missing("attention.layer_norm_rms_epsilon", "a number above 0 and up to 1");
  }
  ASSIGN_OR_RETURN(const double epsilon, keys.PositiveOr("attention.layer_norm_rms_epsilon", 1e-5, 1.0));
  config.rms_norm_epsilon = static_cast<float>(epsilon);

  ASSIGN_OR_RETURN(const bool is_causal, file.GetBool(keys.Name("attention.causal"), true));
  if (!is_causal) {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": metadata key '", keys.Name("attention.causal"),
                                                 "' is false: a model for embeddings or diffusion, which this build "
                                                 "does not serve"));
  }

  // llama.cpp's converters leave a window out, and which layers have it is not said.
  ASSIGN_OR_RETURN(const int window, keys.IntOr("attention.sliding_window", 0, 0, std::numeric_limits<int>::max()));
  if (family->is_strict && window > 0 && window < config.max_positions) {
    return absl::UnimplementedError(
        absl::StrCat(file.path(), ": metadata key '", keys.Name("attention.sliding_window"), "' is ", window,
                     ", below the context of ", config.max_positions,
                     "; use the Hugging Face folder of this model, whose window is served"));
  }

  // The vocabulary is as long as the embedding table; metadata, where it speaks of it, must agree.
  const GgufTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor 'token_embd.weight' is missing"));
  }
  if (embedding->num_dims != 2 || embedding->dims[0] != config.hidden_size || embedding->dims[1] > kMaxVocabSize) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor 'token_embd.weight' has shape ",
                                                   embedding->ShapeString(), ", not [", config.hidden_size, ", up to ",
                                                   kMaxVocabSize, "]"));
  }
  config.vocab_size = static_cast<int>(embedding->dims[1]);
  ASSIGN_OR_RETURN(const int vocab_size,
                   keys.IntOr("vocab_size", config.vocab_size, 1, std::numeric_limits<int>::max()));
  if (vocab_size != config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": metadata key '", keys.Name("vocab_size"), "' is ",
                                                   vocab_size, ", but 'token_embd.weight' has ", config.vocab_size,
                                                   " rows"));
  }
  config.tied_embedding = file.FindTensor("output.weight") == nullptr;
  // Where one layer has them, all must.
  const auto has = [&](const char* name) { return file.FindTensor(name) != nullptr; };
  config.attention_bias = family->attention_bias || has("blk.0.attn_q.bias");
  config.attention_output_bias = has("blk.0.attn_output.bias");
  config.feed_forward_bias = has("blk.0.ffn_gate.bias");
  config.qk_norm = family->qk_norm;

  RETURN_IF_ERROR(ReadRope(file, *family, keys, config));
  if (absl::Status status = Validate(config); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(file.path(), ": ", status.message()));
  }
  return config;
}

}  // namespace outrider
