// Checkpoint: a model on disk, whatever its format. The rest of the worker reads configuration, tokenizer and tensors
// through this and does not know formats apart.
//
// Tensors stay in the files, which are mapped: they live as long as the checkpoint.
//
// Thread safety: constant after construction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/ids.h"
#include "kernels/common/dtype.h"
#include "kernels/common/thread_pool.h"
#include "text/tokenizer_definition.h"
#include "worker/model/model_config.h"
#include "worker/model/tensor_role.h"

namespace outrider {

struct CheckpointTensor {
  std::string name;
  std::string dtype_name;               // as the file spells it, also those that this build can not compute with
  std::optional<kernels::DType> dtype;  // none: no code for it
  std::vector<int64_t> shape;           // row-major: the last dimension is contiguous
  const std::byte* data = nullptr;      // at any alignment
  int64_t bytes = 0;
  std::string file;  // path of the file that holds it

  int64_t num_elements() const;
};

// What the model's authors say of generating with it. Requests that say otherwise win.
struct GenerationDefaults {
  std::vector<TokenId> end_token_ids;  // beside the tokenizer's own; ascending
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<uint32_t> top_k;
};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  // As it was named.
  const std::string& path() const { return path_; }
  // "GGUF v3", "Hugging Face".
  const std::string& format() const { return format_; }
  // As the files spell it, also one that this build does not know.
  const std::string& architecture() const { return architecture_; }
  // For people; never empty.
  const std::string& name() const { return name_; }
  int64_t file_bytes() const { return file_bytes_; }
  // Keys and values of the files, long values shortened.
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }

  // INVALID_ARGUMENT or UNIMPLEMENTED naming file, key and value if this build can not serve such a model.
  const absl::StatusOr<ModelConfig>& config() const { return config_; }
  // Without tokens if there is none. INVALID_ARGUMENT if it is damaged, UNIMPLEMENTED if it is of a kind that this
  // build does not know; then token ids can be served all the same.
  const absl::StatusOr<text::TokenizerDefinition>& tokenizer() const { return tokenizer_; }
  const GenerationDefaults& generation_defaults() const { return generation_defaults_; }

  // In file order.
  const std::vector<CheckpointTensor>& tensors() const { return tensors_; }
  // Null if there is none of this name.
  const CheckpointTensor* Find(absl::string_view name) const;
  // The tensor of a role. INVALID_ARGUMENT naming file and tensor if it is missing or of another shape than `config`
  // asks for.
  absl::StatusOr<const CheckpointTensor*> FindFor(const ModelConfig& config, TensorRole role, int layer) const;
  // What this format calls a tensor. `layer` counts for roles of a layer only.
  virtual std::string NameOf(TensorRole role, int layer) const = 0;
  // Of a tensor that the forward pass did not ask for: OK if nothing is lost by that. UNIMPLEMENTED or INVALID_ARGUMENT
  // naming it otherwise, since leaving it out would change what the model says.
  virtual absl::Status MayIgnore(const CheckpointTensor& tensor) const = 0;

  // A shape as the format's users write it: "[576, 1536]" of 1536 rows in GGUF, "[1536, 576]" in safetensors.
  std::string ShapeString(const std::vector<int64_t>& shape) const;
  // The dtypes that matrices of this format may have, for errors.
  virtual std::string KnownDtypes() const = 0;

  // 32 hexadecimal digits over everything that decides what the model computes: configuration and weights.
  virtual std::string Hash(kernels::ThreadPool& pool) const = 0;

 protected:
  Checkpoint() = default;
  // Fills the index of names. REQUIRES: tensors_ is complete, names are different.
  void IndexTensors();

  std::string path_, format_, architecture_, name_;
  int64_t file_bytes_ = 0;
  bool shapes_contiguous_first_ = false;
  std::vector<std::pair<std::string, std::string>> metadata_;
  absl::StatusOr<ModelConfig> config_;
  absl::StatusOr<text::TokenizerDefinition> tokenizer_{text::TokenizerDefinition()};
  GenerationDefaults generation_defaults_;
  std::vector<CheckpointTensor> tensors_;

 private:
  absl::flat_hash_map<absl::string_view, const CheckpointTensor*> index_;
};

}  // namespace outrider
