#include "worker/model/hf_config.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "kernels/attention/kv_layout.h"
#include "worker/model/json_object.h"

namespace outrider {
namespace {

using Json = nlohmann::json;

constexpr double kLarge = 1e12;

// What transformers' configuration class of an architecture takes where config.json is silent.
struct Family {
  const char* architecture;
  const char* model_type;
  int num_kv_heads;        // 0: as many as heads
  int head_dim;            // 0: hidden_size / heads
  int sliding_window;      // 0: none
  bool qkv_bias;           // whatever attention_bias says
  bool biases;             // attention_bias is known: q, k, v and output
  bool feed_forward_bias;  // mlp_bias is known
  bool qk_norm;
  bool window_is_asked_for;  // use_sliding_window, layer_types and max_window_layers decide
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", 0, 0, 0, false, true, true, false, false},
    {"MistralForCausalLM", "mistral", 8, 0, 4096, false, false, false, false, false},
    {"Qwen2ForCausalLM", "qwen2", 32, 0, 4096, true, false, false, false, true},
    {"Qwen3ForCausalLM", "qwen3", 32, 128, 4096, false, true, false, true, true},
};

std::string ValueString(const Json& value) {
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() > 64 ? absl::StrCat(text.substr(0, 61), "...") : text;
}

// Typed reads of an object of the file. A key that is null is as good as absent.
class Keys {
 public:
  Keys(const std::string& path, const Json& object, std::string prefix = "")
      : path_(path), object_(object), prefix_(std::move(prefix)) {}

  bool Has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }
  bool IsNull(const char* key) const { return object_.contains(key) && object_[key].is_null(); }
  const Json& At(const char* key) const { return object_[key]; }

  absl::Status Wrong(const char* key, absl::string_view wanted) const {
    if (!Has(key)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": key '", prefix_, key, "' is missing; it takes ", wanted));
    }
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": key '", prefix_, key, "' is ", ValueString(At(key)), "; it takes ", wanted));
  }
  absl::Status Unknown(const char* key, absl::string_view known) const {
    return absl::UnimplementedError(
        absl::StrCat(path_, ": key '", prefix_, key, "' is ", ValueString(At(key)), "; this build knows ", known));
  }

  absl::StatusOr<int> Int(const char* key, int64_t first, int64_t last) const {
    const std::string wanted = absl::StrCat("a whole number from ", first, " to ", last);
    if (!Has(key) || !At(key).is_number_integer()) return Wrong(key, wanted);
    if (At(key).is_number_unsigned() && At(key).get<uint64_t>() > static_cast<uint64_t>(last))
      return Wrong(key, wanted);
    const int64_t value = At(key).get<int64_t>();
    if (value < first || value > last) return Wrong(key, wanted);
    return static_cast<int>(value);
  }
  absl::StatusOr<int> IntOr(const char* key, int if_absent, int64_t first, int64_t last) const {
    if (!Has(key)) return if_absent;
    return Int(key, first, last);
  }
  // (above, last]
  absl::StatusOr<double> Number(const char* key, double above, double last) const {
    const std::string wanted = absl::StrCat("a number above ", above, " and up to ", last);
    if (!Has(key) || !At(key).is_number()) return Wrong(key, wanted);
    const double value = At(key).get<double>();
    if (!(value > above) || value > last) return Wrong(key, wanted);
    return value;
  }
  absl::StatusOr<double> NumberOr(const char* key, double if_absent, double above, double last) const {
    if (!Has(key)) return if_absent;
    return Number(key, above, last);
  }
  absl::StatusOr<bool> BoolOr(const char* key, bool if_absent) const {
    if (!Has(key)) return if_absent;
    if (!At(key).is_boolean()) return Wrong(key, "true or false");
    return At(key).get<bool>();
  }
  absl::StatusOr<std::string> StringOr(const char* key, const char* if_absent) const {
    if (!Has(key)) return std::string(if_absent);
    if (!At(key).is_string()) return Wrong(key, "text");
    return At(key).get<std::string>();
  }

 private:
  const std::string& path_;
  const Json& object_;
  const std::string prefix_;
};

// transformers 5 writes rope_parameters; before, rope_theta stood by itself beside rope_scaling.
absl::Status ReadRope(const std::string& path, const Json& json, ModelConfig& config) {
  static const Json kNone = Json::object();
  const Keys keys(path, json);
  const char* const key = keys.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (keys.Has(key) && !keys.At(key).is_object()) return keys.Wrong(key, "an object");
  const Keys rope_keys(path, keys.Has(key) ? keys.At(key) : kNone, absl::StrCat(key, "."));

  kernels::RopeParams& rope = config.rope;
  rope.layout = kernels::RopeLayout::kHalves;
  rope.rotary_dim = config.head_dim;
  for (const Keys* holder : {&rope_keys, &keys}) {
    ASSIGN_OR_RETURN(const double share, holder->NumberOr("partial_rotary_factor", 1.0, 0.0, 1.0));
    if (share != 1.0) return holder->Unknown("partial_rotary_factor", "1.0 only");
  }
  ASSIGN_OR_RETURN(const double base, keys.NumberOr("rope_theta", 10000.0, 0.0, kLarge));
  ASSIGN_OR_RETURN(rope.base, rope_keys.NumberOr("rope_theta", base, 0.0, kLarge));

  const char* const type_key = rope_keys.Has("rope_type") ? "rope_type" : "type";
  ASSIGN_OR_RETURN(const std::string type, rope_keys.StringOr(type_key, "default"));
  if (type == "default") {
    rope.scaling = kernels::RopeScaling::kNone;
    return absl::OkStatus();
  }
  if (type == "linear") {
    rope.scaling = kernels::RopeScaling::kLinear;
    ASSIGN_OR_RETURN(rope.factor, rope_keys.Number("factor", 0.0, kLarge));
    return absl::OkStatus();
  }
  if (type == "llama3") {
    rope.scaling = kernels::RopeScaling::kLlama3;
    ASSIGN_OR_RETURN(rope.factor, rope_keys.Number("factor", 0.0, kLarge));
    ASSIGN_OR_RETURN(rope.low_freq_factor, rope_keys.Number("low_freq_factor", 0.0, kLarge));
    ASSIGN_OR_RETURN(rope.high_freq_factor, rope_keys.Number("high_freq_factor", 0.0, kLarge));
    ASSIGN_OR_RETURN(rope.original_context, rope_keys.Int("original_max_position_embeddings", 1, kMaxPositions));
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      return rope_keys.Wrong("high_freq_factor", absl::StrCat("more than low_freq_factor ", rope.low_freq_factor));
    }
    return absl::OkStatus();
  }
  return rope_keys.Unknown(type_key, "default, linear and llama3");
}

absl::Status ReadWindows(const Keys& keys, const Family& family, ModelConfig& config) {
  if (family.sliding_window == 0) return absl::OkStatus();
  // Absent is the family's default; null is none.
  const bool is_null = keys.IsNull("sliding_window");
  ASSIGN_OR_RETURN(int window, keys.IntOr("sliding_window", is_null ? 0 : family.sliding_window, 1, kMaxPositions));
  if (!family.window_is_asked_for) {
    if (window > 0) config.layer_windows.assign(config.num_layers, window);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const bool use, keys.BoolOr("use_sliding_window", false));
  if (!use) window = 0;
  ASSIGN_OR_RETURN(const int first_layer, keys.IntOr("max_window_layers", 28, 0, kMaxLayers));
  std::vector<int> windows(config.num_layers, 0);
  if (keys.Has("layer_types")) {
    const Json& types = keys.At("layer_types");
    if (!types.is_array() || types.size() != windows.size()) {
      return keys.Wrong("layer_types", absl::StrCat("a list of ", windows.size(), " types"));
    }
    for (size_t i = 0; i < windows.size(); ++i) {
      if (types[i] == "full_attention") continue;
      if (types[i] != "sliding_attention") return keys.Unknown("layer_types", "full_attention and sliding_attention");
      if (window == 0) return keys.Wrong("layer_types", "no sliding_attention where no sliding window is in use");
      windows[i] = window;
    }
  } else {
    for (int i = first_layer; i < config.num_layers; ++i) windows[i] = window;
  }
  if (std::any_of(windows.begin(), windows.end(), [](int w) { return w > 0; })) config.layer_windows = windows;
  return absl::OkStatus();
}

absl::StatusOr<const Family*> FindFamily(const std::string& path, const Json& json) {
  const std::string architecture = HuggingFaceArchitecture(json);
  for (const Family& family : kFamilies) {
    if (architecture == family.architecture) return &family;
  }
  const auto names = [](std::string* out, const Family& family) { absl::StrAppend(out, family.architecture); };
  if (architecture.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": key 'architectures' is missing or no list of one name; ",
                                                   "this build serves ", absl::StrJoin(kFamilies, ", ", names)));
  }
  return absl::UnimplementedError(absl::StrCat(path, ": unknown architecture ", Shown(architecture),
                                               "; this build serves ", absl::StrJoin(kFamilies, ", ", names)));
}

absl::Status CheckKnown(const std::string& path, const Keys& keys) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (!keys.Has(key)) continue;
    const Json& quantization = keys.At(key);
    const Json method = quantization.is_object() ? quantization.value("quant_method", Json()) : Json();
    return absl::UnimplementedError(absl::StrCat(path, ": key '", key, "' (quant_method ", ValueString(method),
                                                 "): quantised checkpoints are not supported; use one in bf16, f16 or "
                                                 "f32, or a GGUF file"));
  }
  ASSIGN_OR_RETURN(const std::string activation, keys.StringOr("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") return keys.Unknown("hidden_act", "silu");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> TokenIds(const Keys& keys, const char* key) {
  std::vector<TokenId> ids;
  if (!keys.Has(key)) return ids;
  const Json& value = keys.At(key);
  const Json list = value.is_array() ? value : Json::array({value});
  constexpr size_t kIdsMax = 128;
  for (const Json& id : list) {
    const bool is_id = id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < kMaxVocabSize;
    if (!is_id || ids.size() == kIdsMax) return keys.Wrong(key, "a token id, or a list of up to 128");
    ids.push_back(static_cast<TokenId>(id.get<int64_t>()));
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace

std::string HuggingFaceArchitecture(const Json& config) {
  const auto architectures = config.find("architectures");
  if (architectures != config.end() && architectures->is_array() && architectures->size() == 1 &&
      (*architectures)[0].is_string()) {
    return (*architectures)[0].get<std::string>().substr(0, 128);
  }
  return "";
}

absl::StatusOr<ModelConfig> ModelConfigFromHuggingFace(const std::string& path, const Json& json) {
  const Keys keys(path, json);
  ASSIGN_OR_RETURN(const Family* family, FindFamily(path, json));
  RETURN_IF_ERROR(CheckKnown(path, keys));
  ModelConfig config;
  config.architecture = family->architecture;
  ASSIGN_OR_RETURN(config.num_layers, keys.Int("num_hidden_layers", 1, kMaxLayers));
  ASSIGN_OR_RETURN(config.hidden_size, keys.Int("hidden_size", 1, kMaxHiddenSize));
  ASSIGN_OR_RETURN(config.intermediate_size, keys.Int("intermediate_size", 1, kMaxIntermediateSize));
  ASSIGN_OR_RETURN(config.num_heads, keys.Int("num_attention_heads", 1, kMaxHeads));
  ASSIGN_OR_RETURN(config.vocab_size, keys.Int("vocab_size", 1, kMaxVocabSize));
  ASSIGN_OR_RETURN(config.max_positions, keys.Int("max_position_embeddings", 1, kMaxPositions));
  const bool own_default = family->num_kv_heads > 0 && !keys.IsNull("num_key_value_heads");
  ASSIGN_OR_RETURN(
      config.num_kv_heads,
      keys.IntOr("num_key_value_heads", own_default ? family->num_kv_heads : config.num_heads, 1, kMaxHeads));
  if (config.num_heads % config.num_kv_heads != 0) {
    return keys.Wrong("num_attention_heads", absl::StrCat("a multiple of num_key_value_heads ", config.num_kv_heads));
  }
  const bool derived = !keys.Has("head_dim") && (family->head_dim == 0 || keys.IsNull("head_dim"));
  if (derived && config.hidden_size % config.num_heads != 0) {
    return keys.Wrong("hidden_size", absl::StrCat("a multiple of num_attention_heads ", config.num_heads,
                                                  " where head_dim is not given"));
  }
  ASSIGN_OR_RETURN(config.head_dim,
                   keys.IntOr("head_dim", derived ? config.hidden_size / config.num_heads : family->head_dim, 2,
                              kernels::KvLayout::kMaxHeadDim));
  ASSIGN_OR_RETURN(const double epsilon, keys.NumberOr("rms_norm_eps", 1e-6, 0.0, 1.0));
  config.rms_norm_epsilon = static_cast<float>(epsilon);
  ASSIGN_OR_RETURN(config.tied_embedding, keys.BoolOr("tie_word_embeddings", false));
  config.attention_bias = family->qkv_bias;
  if (family->biases) {
    ASSIGN_OR_RETURN(config.attention_bias, keys.BoolOr("attention_bias", false));
    config.attention_output_bias = config.attention_bias;
  }
  if (family->feed_forward_bias) {
    ASSIGN_OR_RETURN(config.feed_forward_bias, keys.BoolOr("mlp_bias", false));
  }
  config.qk_norm = family->qk_norm;
  RETURN_IF_ERROR(ReadWindows(keys, *family, config));
  RETURN_IF_ERROR(ReadRope(path, json, config));
  if (absl::Status status = Validate(config); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  return config;
}

absl::StatusOr<GenerationDefaults> GenerationDefaultsFromHuggingFace(const std::string& folder, const Json& config,
                                                                     const Json& generation) {
  GenerationDefaults defaults;
  const std::string config_path = absl::StrCat(folder, "/config.json");
  if (generation.is_null()) {
    ASSIGN_OR_RETURN(defaults.end_token_ids, TokenIds(Keys(config_path, config), "eos_token_id"));
    return defaults;
  }
  const std::string path = absl::StrCat(folder, "/generation_config.json");
  const Keys keys(path, generation);
  ASSIGN_OR_RETURN(defaults.end_token_ids, TokenIds(keys, "eos_token_id"));
  if (!keys.Has("eos_token_id")) {
    ASSIGN_OR_RETURN(defaults.end_token_ids, TokenIds(Keys(config_path, config), "eos_token_id"));
  }
  const auto read = [&](const char* key, double above, double last, std::optional<float>* out) -> absl::Status {
    if (!keys.Has(key)) return absl::OkStatus();
    ASSIGN_OR_RETURN(const double value, keys.Number(key, above, last));
    *out = static_cast<float>(value);
    return absl::OkStatus();
  };
  // The ranges of requests (router/request_validation.cc), whose places these take.
  constexpr double kBelowZero = -std::numeric_limits<double>::min();
  RETURN_IF_ERROR(read("temperature", kBelowZero, 100, &defaults.temperature));
  RETURN_IF_ERROR(read("top_p", 1e-6, 1, &defaults.top_p));
  RETURN_IF_ERROR(read("min_p", kBelowZero, 1, &defaults.min_p));
  RETURN_IF_ERROR(read("repetition_penalty", 0.01, 100, &defaults.repetition_penalty));
  if (keys.Has("top_k")) {
    ASSIGN_OR_RETURN(const int top_k, keys.Int("top_k", 0, std::numeric_limits<int>::max()));
    defaults.top_k = static_cast<uint32_t>(top_k);
  }
  return defaults;
}

}  // namespace outrider
