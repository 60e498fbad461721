#include "worker/model/model_description.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/common/dtype.h"
#include "worker/model/gguf.h"
#include "worker/model/gguf_tokenizer.h"
#include "worker/model/kv_storage.h"
#include "worker/model/shard_plan.h"

namespace outrider {
namespace {

constexpr int kTensorParallelSizesShown = 8;

// The dtype of each kind of matrix, taken from layer 0 and the head.
absl::Status CheckDtypes(const GgufFile& file) {
  for (const GgufTensor& tensor : file.tensors()) {
    kernels::DType dtype;
    if (!kernels::DTypeFromGgml(tensor.type.id, &dtype)) {
      return absl::UnimplementedError(absl::StrCat(file.path(), ": tensor '", tensor.name, "' has dtype ",
                                                   tensor.type.name, ", which this build can not compute with"));
    }
  }
  return absl::OkStatus();
}

// Bytes of a slice of a matrix as a rank packs it.
int64_t SliceBytes(const GgufTensor& tensor, int64_t rows, const IndexRange& columns) {
  const bool cuts_blocks = columns.first % tensor.type.block_size != 0 || columns.end % tensor.type.block_size != 0;
  if (cuts_blocks) return rows * columns.size() * static_cast<int64_t>(sizeof(float));
  return rows * (columns.size() / tensor.type.block_size) * tensor.type.block_bytes;
}

RankMemory MemoryOf(const GgufFile& file, const ModelConfig& config, const ShardPlan& plan) {
  RankMemory memory;
  memory.tensor_parallel_size = static_cast<int>(plan.ranks.size());
  for (const RankShard& shard : plan.ranks) {
    const int64_t d = config.head_dim;
    const IndexRange hidden{0, config.hidden_size};
    const IndexRange q{shard.heads.first * d, shard.heads.end * d};
    int64_t bytes = 0;
    const auto add = [&](const std::string& name, int64_t rows, const IndexRange& columns) {
      if (const GgufTensor* tensor = file.FindTensor(name); tensor != nullptr) {
        bytes += SliceBytes(*tensor, rows, columns);
      }
    };
    for (int i = 0; i < config.num_layers; ++i) {
      const std::string blk = absl::StrCat("blk.", i, ".");
      add(blk + "attn_q.weight", q.size(), hidden);
      add(blk + "attn_k.weight", shard.kv_heads.size() * d, hidden);
      add(blk + "attn_v.weight", shard.kv_heads.size() * d, hidden);
      add(blk + "attn_output.weight", config.hidden_size, q);
      add(blk + "ffn_gate.weight", shard.intermediate.size(), hidden);
      add(blk + "ffn_up.weight", shard.intermediate.size(), hidden);
      add(blk + "ffn_down.weight", config.hidden_size, shard.intermediate);
      bytes += 2 * config.hidden_size * static_cast<int64_t>(sizeof(float));  // norms
    }
    add(config.tied_embedding ? "token_embd.weight" : "output.weight", shard.vocab.size(), hidden);
    memory.weight_bytes_max = std::max(memory.weight_bytes_max, bytes);
    const kernels::KvLayout layout = MakeKvLayout(config, shard, Numerics::kInvariant, 1, 16);
    memory.kv_bytes_per_token_max =
        std::max(memory.kv_bytes_per_token_max, layout.block_bytes() * config.num_layers / layout.block_size);
  }
  return memory;
}

}  // namespace

absl::StatusOr<ModelDescription> DescribeModel(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(path));
  ModelDescription description;
  description.format = absl::StrCat("GGUF v", file->version());
  description.file_bytes = static_cast<int64_t>(file->bytes().size());
  ASSIGN_OR_RETURN(const absl::string_view architecture, file->GetString("general.architecture", ""));
  description.architecture = std::string(architecture);
  ASSIGN_OR_RETURN(const absl::string_view name, file->GetString("general.name", ""));
  description.name = std::string(name);
  absl::flat_hash_map<std::string, DtypeTotal> totals;
  for (const GgufTensor& tensor : file->tensors()) {
    description.tensors.push_back({.name = std::string(tensor.name),
                                   .dtype = tensor.type.name,
                                   .shape = {tensor.dims, tensor.dims + tensor.num_dims},
                                   .bytes = tensor.bytes});
    description.num_parameters += tensor.num_elements();
    DtypeTotal& total = totals[tensor.type.name];
    total.dtype = tensor.type.name;
    total.num_tensors += 1;
    total.num_parameters += tensor.num_elements();
    total.bytes += tensor.bytes;
  }
  for (auto& [dtype, total] : totals) description.dtypes.push_back(std::move(total));
  std::sort(description.dtypes.begin(), description.dtypes.end(), [](const DtypeTotal& a, const DtypeTotal& b) {
    return a.bytes != b.bytes ? a.bytes > b.bytes : a.dtype < b.dtype;
  });
  for (const absl::string_view key : file->keys()) {
    description.metadata.emplace_back(std::string(key), file->ValueString(key));
  }
  ASSIGN_OR_RETURN(description.tokenizer, TokenizerFromGguf(*file));

  absl::StatusOr<ModelConfig> config = ModelConfigFromGguf(*file);
  description.servable = config.ok() ? CheckDtypes(*file) : config.status();
  if (!description.servable.ok()) return description;
  description.config = *std::move(config);
  for (int size = 1; size <= kTensorParallelSizesShown; ++size) {
    const absl::StatusOr<ShardPlan> plan = PlanShards(description.config, size);
    if (!plan.ok()) break;
    description.memory.push_back(MemoryOf(*file, description.config, *plan));
  }
  return description;
}

}  // namespace outrider
