#include "worker/model/hf_checkpoint.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/hf_tokenizer.h"
#include "text/tokenizer.h"
#include "worker/model/content_hash.h"
#include "worker/model/dummy_weights.h"
#include "worker/model/hf_config.h"
#include "worker/model/json_object.h"
#include "worker/model/safetensors.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

std::string Join(const std::string& folder, const char* name) { return (fs::path(folder) / name).string(); }

bool IsThere(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// A file's JSON, or null if it is not there.
absl::StatusOr<Json> ReadIfThere(const std::string& path) {
  if (!IsThere(path)) return Json();
  return ReadJsonObject(path, kMaxConfigJsonBytes);
}

// "/models/Llama-3.1-8B/" is Llama-3.1-8B; in the hub's cache, models--meta-llama--Llama-3.1-8B/snapshots/HASH, too.
std::string NameOfFolder(const std::string& folder) {
  fs::path path = fs::absolute(fs::path(folder)).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (path.parent_path().filename() == "snapshots") {
    const std::string repository = path.parent_path().parent_path().filename().string();
    const size_t at = repository.rfind("--");
    if (at != std::string::npos) return repository.substr(at + 2);
  }
  return path.filename().string();
}

std::string Shortened(const Json& value) {
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  constexpr size_t kShown = 256;
  return text.size() > kShown ? absl::StrCat(text.substr(0, kShown), "...") : text;
}

std::optional<kernels::DType> DtypeOf(const std::string& dtype) {
  if (dtype == "BF16") return kernels::DType::kBF16;
  if (dtype == "F16") return kernels::DType::kF16;
  if (dtype == "F32") return kernels::DType::kF32;
  return std::nullopt;
}

class HuggingFaceCheckpoint final : public Checkpoint {
 public:
  HuggingFaceCheckpoint(const std::string& folder, std::string config_text, const Json& config)
      : config_text_(std::move(config_text)) {
    path_ = folder;
    format_ = "Hugging Face";
    architecture_ = HuggingFaceArchitecture(config);
    name_ = NameOfFolder(folder);
    for (const auto& [key, value] : config.items()) metadata_.emplace_back(key, Shortened(value));
    config_ = ModelConfigFromHuggingFace(Join(folder, "config.json"), config);
  }

  void Take(std::unique_ptr<SafetensorsSet> files) {
    files_ = std::move(files);
    for (const auto& file : files_->files()) {
      file_bytes_ += static_cast<int64_t>(file->bytes().size());
      for (const Safetensor& tensor : file->tensors()) {
        tensors_.push_back({.name = tensor.name,
                            .dtype_name = tensor.dtype,
                            .dtype = DtypeOf(tensor.dtype),
                            .shape = tensor.shape,
                            .data = tensor.data,
                            .bytes = tensor.bytes,
                            .file = file->path()});
      }
    }
    IndexTensors();
  }

  absl::Status MakeDummies(const Json& config) {
    format_ = "Hugging Face, dummy weights";
    if (!config_.ok()) return absl::OkStatus();
    const std::vector<TensorPlace> places = TensorsOf(*config_);
    int64_t bytes_max = 0, norm_size = 0;
    for (const TensorPlace& place : places) {
      int64_t bytes = sizeof(uint16_t);
      for (const int64_t dim : ShapeOf(place.role, *config_)) bytes *= dim;
      bytes_max = std::max(bytes_max, bytes);
      if (IsNorm(place.role)) norm_size = std::max(norm_size, bytes / int64_t{sizeof(uint16_t)});
    }
    const Json range = config.value("initializer_range", Json());
    const bool known = range.is_number() && range.get<double>() > 0 && range.get<double>() <= 1;
    ASSIGN_OR_RETURN(dummies_, DummyWeights::Create(kDummySeed, known ? range.get<float>() : 0.02f, bytes_max));
    ones_.assign(static_cast<size_t>(norm_size), kernels::F32ToBF16(1.0f));
    for (const TensorPlace& place : places) {
      CheckpointTensor& tensor = tensors_.emplace_back();
      tensor.name = NameOf(place.role, place.layer);
      tensor.dtype_name = "BF16";
      tensor.dtype = kernels::DType::kBF16;
      tensor.shape = ShapeOf(place.role, *config_);
      tensor.bytes = tensor.num_elements() * int64_t{sizeof(uint16_t)};
      tensor.data =
          IsNorm(place.role) ? reinterpret_cast<const std::byte*>(ones_.data()) : dummies_->Tensor(KeyOf(tensor.name));
      tensor.file = Join(path_, "config.json");
    }
    IndexTensors();
    return absl::OkStatus();
  }

  absl::Status ReadCompanions(const Json& config) {
    ASSIGN_OR_RETURN(const Json generation, ReadIfThere(Join(path_, "generation_config.json")));
    ASSIGN_OR_RETURN(generation_defaults_, GenerationDefaultsFromHuggingFace(path_, config, generation));
    tokenizer_ = ReadTokenizerFolder(path_, config_.ok() ? config_->vocab_size : 0);
    return absl::OkStatus();
  }

  std::string NameOf(TensorRole role, int layer) const override {
    const bool tied = role == TensorRole::kHead && config_.ok() && config_->tied_embedding;
    return HuggingFaceTensorName(tied ? TensorRole::kEmbedding : role, layer);
  }

  absl::Status MayIgnore(const CheckpointTensor& tensor) const override {
    // Buffers that older versions of transformers saved; they follow from config.json.
    if (absl::EndsWith(tensor.name, ".rotary_emb.inv_freq")) return absl::OkStatus();
    if (tensor.name == HuggingFaceTensorName(TensorRole::kHead, 0)) {
      const CheckpointTensor* const embedding = Find(HuggingFaceTensorName(TensorRole::kEmbedding, 0));
      if (embedding != nullptr && embedding->bytes == tensor.bytes && embedding->dtype_name == tensor.dtype_name &&
          std::memcmp(embedding->data, tensor.data, static_cast<size_t>(tensor.bytes)) == 0) {
        return absl::OkStatus();
      }
      return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor '", tensor.name,
                                                     "' is not equal to the embedding, but config.json says "
                                                     "tie_word_embeddings; one of the two is wrong"));
    }
    return absl::UnimplementedError(absl::StrCat(tensor.file, ": tensor '", tensor.name,
                                                 "' is none that this build knows in a model of its architecture and "
                                                 "configuration"));
  }

  std::string KnownDtypes() const override { return "F32, F16 and BF16"; }

  std::string Hash(kernels::ThreadPool& pool) const override {
    const auto hash = [&](absl::string_view text) {
      return ContentHash(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()), text.size()), pool);
    };
    std::string all = absl::StrCat("config.json:", hash(config_text_));
    if (files_ == nullptr) return hash(absl::StrCat(all, "|dummy:", kDummySeed));
    for (const auto& file : files_->files()) {
      absl::StrAppend(&all, "|", fs::path(file->path()).filename().string(), ":", ContentHash(file->bytes(), pool));
    }
    return hash(all);
  }

 private:
  // Part of every hash of dummies: raise it if their numbers change.
  static constexpr uint64_t kDummySeed = 1;

  static bool IsNorm(TensorRole role) {
    return role == TensorRole::kOutputNorm || role == TensorRole::kAttentionNorm ||
           role == TensorRole::kFeedForwardNorm || role == TensorRole::kQNorm || role == TensorRole::kKNorm;
  }
  // FNV-1a, the same everywhere.
  static uint64_t KeyOf(absl::string_view name) {
    uint64_t key = 0xcbf29ce484222325;
    for (const char c : name) key = (key ^ static_cast<uint8_t>(c)) * 0x100000001b3;
    return key;
  }

  const std::string config_text_;
  std::unique_ptr<SafetensorsSet> files_;  // null: dummies
  std::unique_ptr<DummyWeights> dummies_;
  std::vector<uint16_t> ones_;  // bf16
};

const char* SuffixOf(TensorRole role) {
  switch (role) {
    case TensorRole::kEmbedding:
      return "model.embed_tokens.weight";
    case TensorRole::kHead:
      return "lm_head.weight";
    case TensorRole::kOutputNorm:
      return "model.norm.weight";
    case TensorRole::kAttentionNorm:
      return "input_layernorm.weight";
    case TensorRole::kQ:
      return "self_attn.q_proj.weight";
    case TensorRole::kK:
      return "self_attn.k_proj.weight";
    case TensorRole::kV:
      return "self_attn.v_proj.weight";
    case TensorRole::kQBias:
      return "self_attn.q_proj.bias";
    case TensorRole::kKBias:
      return "self_attn.k_proj.bias";
    case TensorRole::kVBias:
      return "self_attn.v_proj.bias";
    case TensorRole::kQNorm:
      return "self_attn.q_norm.weight";
    case TensorRole::kKNorm:
      return "self_attn.k_norm.weight";
    case TensorRole::kAttentionOutput:
      return "self_attn.o_proj.weight";
    case TensorRole::kAttentionOutputBias:
      return "self_attn.o_proj.bias";
    case TensorRole::kFeedForwardNorm:
      return "post_attention_layernorm.weight";
    case TensorRole::kGate:
      return "mlp.gate_proj.weight";
    case TensorRole::kUp:
      return "mlp.up_proj.weight";
    case TensorRole::kDown:
      return "mlp.down_proj.weight";
    case TensorRole::kGateBias:
      return "mlp.gate_proj.bias";
    case TensorRole::kUpBias:
      return "mlp.up_proj.bias";
    case TensorRole::kDownBias:
      return "mlp.down_proj.bias";
  }
  return "";
}

}  // namespace

std::string HuggingFaceTensorName(TensorRole role, int layer) {
  const char* const suffix = SuffixOf(role);
  return IsOfLayer(role) ? absl::StrCat("model.layers.", layer, ".", suffix) : std::string(suffix);
}

absl::StatusOr<text::TokenizerDefinition> ReadTokenizerFolder(const std::string& folder, int vocab_size) {
  const std::string path = Join(folder, "tokenizer.json");
  if (!IsThere(path)) return text::TokenizerDefinition();
  ASSIGN_OR_RETURN(const std::string tokenizer, ReadTextFile(path, text::kMaxTokenizerJsonBytes));
  std::string config;
  if (const std::string config_path = Join(folder, "tokenizer_config.json"); IsThere(config_path)) {
    ASSIGN_OR_RETURN(config, ReadTextFile(config_path, text::kMaxTokenizerJsonBytes));
  }
  absl::StatusOr<text::TokenizerDefinition> definition = text::ReadHuggingFaceTokenizer(tokenizer, config);
  if (!definition.ok()) {
    return absl::Status(definition.status().code(), absl::StrCat(folder, ": ", definition.status().message()));
  }
  // Where newer versions of transformers write it.
  if (const std::string template_path = Join(folder, "chat_template.jinja"); IsThere(template_path)) {
    ASSIGN_OR_RETURN(definition->chat_template, ReadTextFile(template_path, text::kMaxChatTemplateBytes));
  }
  // Embedding tables are often padded to a round number of rows.
  if (definition->types.empty()) definition->types.resize(definition->tokens.size(), text::TokenType::kNormal);
  while (definition->tokens.size() < static_cast<size_t>(vocab_size)) {
    definition->tokens.push_back(absl::StrCat("[PAD", definition->tokens.size(), "]"));
    definition->types.push_back(text::TokenType::kUnused);
    if (!definition->scores.empty()) definition->scores.push_back(0);
  }
  return definition;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenHuggingFaceCheckpoint(const std::string& folder, LoadFormat format) {
  const std::string config_path = Join(folder, "config.json");
  if (!IsThere(config_path)) {
    return absl::NotFoundError(absl::StrCat(folder,
                                            ": config.json is not there; name a GGUF file or a folder of a "
                                            "Hugging Face model"));
  }
  ASSIGN_OR_RETURN(std::string config_text, ReadTextFile(config_path, kMaxConfigJsonBytes));
  ASSIGN_OR_RETURN(const Json config, ParseJsonObject(config_path, "the file", config_text));
  auto checkpoint = std::make_unique<HuggingFaceCheckpoint>(folder, std::move(config_text), config);
  if (format == LoadFormat::kDummy) {
    RETURN_IF_ERROR(checkpoint->MakeDummies(config));
  } else {
    ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsSet> files, SafetensorsSet::Open(folder));
    checkpoint->Take(std::move(files));
  }
  RETURN_IF_ERROR(checkpoint->ReadCompanions(config));
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace outrider
