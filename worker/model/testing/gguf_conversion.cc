#include "worker/model/testing/gguf_conversion.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/model/hf_checkpoint.h"
#include "worker/model/testing/hf_writer.h"

namespace outrider {
namespace {

using Json = nlohmann::json;
using kernels::DType;

constexpr const char* kNames[][2] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

// "model.layers.3.mlp.up_proj.weight" is "blk.3.ffn_up.weight".
std::string GgufName(const std::string& name) {
  std::string layer, rest = name;
  constexpr absl::string_view kLayers = "model.layers.";
  if (name.compare(0, kLayers.size(), kLayers.data(), kLayers.size()) == 0) {
    const size_t dot = name.find('.', kLayers.size());
    layer = absl::StrCat("blk.", name.substr(kLayers.size(), dot - kLayers.size()), ".");
    rest = name.substr(dot + 1);
  }
  const size_t suffix = rest.rfind('.');
  for (const auto& [from, to] : kNames) {
    if (rest.substr(0, suffix) == from) return absl::StrCat(layer, to, rest.substr(suffix));
  }
  CHECK(false);  // a tensor that the table lacks
  return "";
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  CHECK(file.good());
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<float> ValuesOf(const CheckpointTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
  CHECK(kernels::DequantizeRow(*tensor.dtype, tensor.data, tensor.num_elements(), values.data()) ==
        kernels::KernelError::kOk);
  return values;
}

// Element i of either half of a head's rows goes to row 2i or 2i + 1.
void PermuteRows(int num_heads, const std::vector<int64_t>& shape, std::vector<float>& values) {
  const int64_t row = shape.size() == 2 ? shape[1] : 1;
  const int64_t head_dim = shape[0] / num_heads;
  const std::vector<float> from = values;
  for (int64_t head = 0; head < num_heads; ++head) {
    for (int64_t i = 0; i < head_dim; ++i) {
      const int64_t to = head * head_dim + 2 * (i % (head_dim / 2)) + i / (head_dim / 2);
      std::copy_n(from.begin() + (head * head_dim + i) * row, row, values.begin() + to * row);
    }
  }
}

}  // namespace

GgufWriter GgufFromHuggingFace(const std::string& folder, const GgufConversionOptions& options) {
  const Json config = Json::parse(ReadFile(folder + "/config.json"));
  const std::string of = config["architectures"][0];
  CHECK(of == "LlamaForCausalLM" || of == "Qwen2ForCausalLM" || of == "Qwen3ForCausalLM");
  const std::string architecture = of == "LlamaForCausalLM" ? "llama" : of == "Qwen2ForCausalLM" ? "qwen2" : "qwen3";
  const int num_heads = config["num_attention_heads"], num_kv_heads = config["num_key_value_heads"];
  const int hidden = config["hidden_size"];

  GgufWriter writer;
  const auto wanted = [&](const std::string& key) { return options.keys_left_out.count(key) == 0; };
  const auto number = [&](const char* suffix, uint32_t value) {
    if (const std::string key = architecture + "." + suffix; wanted(key)) writer.Uint32(key, value);
  };
  const auto real = [&](const char* suffix, double value) {
    if (const std::string key = architecture + "." + suffix; wanted(key))
      writer.Float32(key, static_cast<float>(value));
  };
  if (wanted("general.architecture")) writer.String("general.architecture", architecture);
  writer.String("general.type", "model");
  writer.String("general.name", "converted");
  number("block_count", config["num_hidden_layers"]);
  number("context_length", config["max_position_embeddings"]);
  number("embedding_length", static_cast<uint32_t>(hidden));
  number("feed_forward_length", config["intermediate_size"]);
  number("attention.head_count", static_cast<uint32_t>(num_heads));
  number("attention.head_count_kv", static_cast<uint32_t>(num_kv_heads));
  const Json rope = config.value("rope_parameters", Json::object());
  CHECK(rope.value("rope_type", "default") == "default");
  const double base = rope.value("rope_theta", config.value("rope_theta", 10000.0));
  real("rope.freq_base", options.rope_base > 0 ? options.rope_base : base);
  if (const Json scaling = config.value("rope_scaling", Json()); scaling.is_object()) {
    CHECK(scaling["type"] == "linear");
    writer.String(architecture + ".rope.scaling.type", "linear");
    real("rope.scaling.factor", scaling["factor"]);
  }
  real("attention.layer_norm_rms_epsilon", config["rms_norm_eps"]);
  if (const Json head_dim = config.value("head_dim", Json()); head_dim.is_number()) {
    number("attention.key_length", head_dim);
    number("attention.value_length", head_dim);
  }
  if (architecture == "llama") number("vocab_size", config["vocab_size"]);
  if (options.tokenizer != nullptr) WriteTokenizer(*options.tokenizer, writer);

  const auto checkpoint = OpenHuggingFaceCheckpoint(folder, LoadFormat::kAuto);
  CHECK(checkpoint.ok());
  const bool permute = architecture == "llama" || options.permute_qwen;
  for (const CheckpointTensor& tensor : (*checkpoint)->tensors()) {
    const std::string name = GgufName(tensor.name);
    std::vector<float> values = ValuesOf(tensor);
    const bool is_q = name.find(".attn_q.") != std::string::npos, is_k = name.find(".attn_k.") != std::string::npos;
    if (permute && (is_q || is_k)) PermuteRows(is_q ? num_heads : num_kv_heads, tensor.shape, values);
    if (options.edit && !options.edit(name, tensor.shape, values)) continue;
    const std::vector<int64_t> dims(tensor.shape.rbegin(), tensor.shape.rend());
    writer.Tensor(name, dims, tensor.shape.size() == 1 ? DType::kF32 : options.matrices, values);
  }
  return writer;
}

std::string HuggingFaceFolderIn(const std::string& folder, DType dtype) {
  const auto checkpoint = OpenHuggingFaceCheckpoint(folder, LoadFormat::kAuto);
  CHECK(checkpoint.ok());
  SafetensorsWriter writer;
  for (const CheckpointTensor& tensor : (*checkpoint)->tensors()) {
    std::vector<float> values = ValuesOf(tensor);
    if (kernels::IsQuantized(dtype) && tensor.shape.size() == 2) {
      const int64_t columns = tensor.shape[1];
      std::string row(static_cast<size_t>(kernels::RowBytes(dtype, columns)), '\0');
      for (float* at = values.data(); at != values.data() + values.size(); at += columns) {
        CHECK(kernels::QuantizeRow(dtype, at, columns, row.data()) == kernels::KernelError::kOk);
        CHECK(kernels::DequantizeRow(dtype, row.data(), columns, at) == kernels::KernelError::kOk);
      }
    }
    writer.Add(tensor.name, tensor.shape, kernels::IsQuantized(dtype) ? DType::kF32 : dtype, values);
  }
  const std::string to = MakeTestFolder();
  WriteFileIn(to, "config.json", ReadFile(folder + "/config.json"));
  WriteFileIn(to, "model.safetensors", writer.Finish());
  return to;
}

}  // namespace outrider
