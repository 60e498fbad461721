#include "worker/model/gguf_checkpoint.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/model/content_hash.h"
#include "worker/model/gguf_tokenizer.h"

namespace outrider {
namespace {

// Names without "blk.N." and, of matrices, vectors and biases alike, with their suffix. Null: the format has none.
const char* SuffixOf(TensorRole role) {
  switch (role) {
    case TensorRole::kEmbedding:
      return "token_embd.weight";
    case TensorRole::kHead:
      return "output.weight";
    case TensorRole::kOutputNorm:
      return "output_norm.weight";
    case TensorRole::kAttentionNorm:
      return "attn_norm.weight";
    case TensorRole::kQ:
      return "attn_q.weight";
    case TensorRole::kK:
      return "attn_k.weight";
    case TensorRole::kV:
      return "attn_v.weight";
    case TensorRole::kQBias:
      return "attn_q.bias";
    case TensorRole::kKBias:
      return "attn_k.bias";
    case TensorRole::kVBias:
      return "attn_v.bias";
    case TensorRole::kQNorm:
      return "attn_q_norm.weight";
    case TensorRole::kKNorm:
      return "attn_k_norm.weight";
    case TensorRole::kAttentionOutput:
      return "attn_output.weight";
    case TensorRole::kAttentionOutputBias:
      return "attn_output.bias";
    case TensorRole::kFeedForwardNorm:
      return "ffn_norm.weight";
    case TensorRole::kGate:
      return "ffn_gate.weight";
    case TensorRole::kUp:
      return "ffn_up.weight";
    case TensorRole::kDown:
      return "ffn_down.weight";
    case TensorRole::kGateBias:
      return "ffn_gate.bias";
    case TensorRole::kUpBias:
      return "ffn_up.bias";
    case TensorRole::kDownBias:
      return "ffn_down.bias";
  }
  return "";
}

class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(std::unique_ptr<GgufFile> file) : file_(std::move(file)) {
    path_ = file_->path();
    format_ = absl::StrCat("GGUF v", file_->version());
    file_bytes_ = static_cast<int64_t>(file_->bytes().size());
    shapes_contiguous_first_ = true;
    if (const auto value = file_->GetString("general.architecture", ""); value.ok())
      architecture_ = std::string(*value);
    if (const auto value = file_->GetString("general.name", ""); value.ok()) name_ = std::string(value->substr(0, 256));
    if (name_.empty()) name_ = std::filesystem::path(path_).stem().string();
    for (const absl::string_view key : file_->keys()) {
      metadata_.emplace_back(std::string(key), file_->ValueString(key));
    }
    config_ = ModelConfigFromGguf(*file_);
    tokenizer_ = TokenizerFromGguf(*file_);
    tensors_.reserve(file_->tensors().size());
    for (const GgufTensor& tensor : file_->tensors()) {
      CheckpointTensor& added = tensors_.emplace_back();
      added.name = std::string(tensor.name);
      added.dtype_name = tensor.type.name;
      kernels::DType dtype;
      if (kernels::DTypeFromGgml(tensor.type.id, &dtype)) added.dtype = dtype;
      added.shape.assign(std::make_reverse_iterator(tensor.dims + tensor.num_dims),
                         std::make_reverse_iterator(tensor.dims));
      added.data = tensor.data;
      added.bytes = tensor.bytes;
      added.file = path_;
    }
    IndexTensors();
  }

  std::string NameOf(TensorRole role, int layer) const override {
    const bool tied = role == TensorRole::kHead && config_.ok() && config_->tied_embedding;
    const char* const suffix = SuffixOf(tied ? TensorRole::kEmbedding : role);
    return IsOfLayer(role) ? absl::StrCat("blk.", layer, ".", suffix) : std::string(suffix);
  }

  absl::Status MayIgnore(const CheckpointTensor& tensor) const override {
    // Read with the configuration.
    if (tensor.name == "rope_freqs.weight") return absl::OkStatus();
    return absl::UnimplementedError(absl::StrCat(path_, ": tensor '", tensor.name,
                                                 "' is none that this build knows in a model of its architecture"));
  }

  std::string KnownDtypes() const override { return "F32, F16, BF16, Q8_0, Q4_0 and Q4_1"; }

  std::string Hash(kernels::ThreadPool& pool) const override { return ContentHash(file_->bytes(), pool); }

 private:
  const std::unique_ptr<GgufFile> file_;
};

}  // namespace

std::unique_ptr<Checkpoint> MakeGgufCheckpoint(std::unique_ptr<GgufFile> file) {
  return std::make_unique<GgufCheckpoint>(std::move(file));
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, GgufFile::Open(path));
  return MakeGgufCheckpoint(std::move(file));
}

}  // namespace outrider
