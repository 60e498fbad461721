#include "worker/model/model_description.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/common/dtype.h"
#include "worker/model/kv_storage.h"
#include "worker/model/open_checkpoint.h"
#include "worker/model/shard_plan.h"

namespace outrider {
namespace {

constexpr int kTensorParallelSizesShown = 8;

// What loading would find.
absl::Status CheckTensors(const Checkpoint& checkpoint, const ModelConfig& config) {
  absl::flat_hash_set<absl::string_view> used;
  for (const TensorPlace& place : TensorsOf(config)) {
    ASSIGN_OR_RETURN(const CheckpointTensor* tensor, checkpoint.FindFor(config, place.role, place.layer));
    used.insert(tensor->name);
    if (!tensor->dtype.has_value()) {
      return absl::UnimplementedError(absl::StrCat(tensor->file, ": tensor '", tensor->name, "' has dtype ",
                                                   tensor->dtype_name, "; this build computes with ",
                                                   checkpoint.KnownDtypes()));
    }
  }
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (!used.contains(tensor.name)) RETURN_IF_ERROR(checkpoint.MayIgnore(tensor));
  }
  return absl::OkStatus();
}

// Bytes of a slice of a matrix as a rank packs it.
int64_t SliceBytes(const CheckpointTensor& tensor, int64_t rows, const IndexRange& columns) {
  const int64_t block_size = kernels::BlockSize(*tensor.dtype);
  const bool cuts_blocks = columns.first % block_size != 0 || columns.end % block_size != 0;
  if (cuts_blocks) return rows * columns.size() * static_cast<int64_t>(sizeof(float));
  return rows * (columns.size() / block_size) * kernels::BlockBytes(*tensor.dtype);
}

RankMemory MemoryOf(const Checkpoint& checkpoint, const ModelConfig& config, const ShardPlan& plan) {
  RankMemory memory;
  memory.tensor_parallel_size = static_cast<int>(plan.ranks.size());
  for (const RankShard& shard : plan.ranks) {
    const int64_t d = config.head_dim;
    const IndexRange hidden{0, config.hidden_size};
    const IndexRange q{shard.heads.first * d, shard.heads.end * d};
    int64_t bytes = 0;
    const auto add = [&](TensorRole role, int layer, int64_t rows, const IndexRange& columns) {
      const CheckpointTensor* const tensor = checkpoint.Find(checkpoint.NameOf(role, layer));
      if (tensor != nullptr) bytes += SliceBytes(*tensor, rows, columns);
    };
    for (int i = 0; i < config.num_layers; ++i) {
      add(TensorRole::kQ, i, q.size(), hidden);
      add(TensorRole::kK, i, shard.kv_heads.size() * d, hidden);
      add(TensorRole::kV, i, shard.kv_heads.size() * d, hidden);
      add(TensorRole::kAttentionOutput, i, config.hidden_size, q);
      add(TensorRole::kGate, i, shard.intermediate.size(), hidden);
      add(TensorRole::kUp, i, shard.intermediate.size(), hidden);
      add(TensorRole::kDown, i, config.hidden_size, shard.intermediate);
      bytes += 2 * config.hidden_size * static_cast<int64_t>(sizeof(float));  // norms
    }
    add(TensorRole::kHead, 0, shard.vocab.size(), hidden);
    memory.weight_bytes_max = std::max(memory.weight_bytes_max, bytes);
    const kernels::KvLayout layout = MakeKvLayout(config, shard, Numerics::kInvariant, 1, 16);
    memory.kv_bytes_per_token_max =
        std::max(memory.kv_bytes_per_token_max, layout.block_bytes() * config.num_layers / layout.block_size);
  }
  return memory;
}

}  // namespace

absl::StatusOr<ModelDescription> DescribeModel(const std::string& path, LoadFormat format) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, OpenCheckpoint(path, format));
  ModelDescription description;
  description.format = checkpoint->format();
  description.file_bytes = checkpoint->file_bytes();
  description.architecture = checkpoint->architecture();
  description.name = checkpoint->name();
  description.metadata = checkpoint->metadata();
  absl::flat_hash_map<std::string, DtypeTotal> totals;
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    description.tensors.push_back({.name = tensor.name,
                                   .dtype = tensor.dtype_name,
                                   .shape = checkpoint->ShapeString(tensor.shape),
                                   .bytes = tensor.bytes});
    description.num_parameters += tensor.num_elements();
    DtypeTotal& total = totals[tensor.dtype_name];
    total.dtype = tensor.dtype_name;
    total.num_tensors += 1;
    total.num_parameters += tensor.num_elements();
    total.bytes += tensor.bytes;
  }
  for (auto& [dtype, total] : totals) description.dtypes.push_back(std::move(total));
  std::sort(description.dtypes.begin(), description.dtypes.end(), [](const DtypeTotal& a, const DtypeTotal& b) {
    return a.bytes != b.bytes ? a.bytes > b.bytes : a.dtype < b.dtype;
  });
  if (checkpoint->tokenizer().ok()) {
    description.tokenizer = *checkpoint->tokenizer();
  } else if (checkpoint->tokenizer().status().code() == absl::StatusCode::kUnimplemented) {
    description.tokenizer_not_known = std::string(checkpoint->tokenizer().status().message());
  } else {
    return checkpoint->tokenizer().status();
  }

  description.servable =
      checkpoint->config().ok() ? CheckTensors(*checkpoint, *checkpoint->config()) : checkpoint->config().status();
  if (!description.servable.ok()) return description;
  description.config = *checkpoint->config();
  for (int size = 1; size <= kTensorParallelSizesShown; ++size) {
    const absl::StatusOr<ShardPlan> plan = PlanShards(description.config, size);
    if (!plan.ok()) break;
    description.memory.push_back(MemoryOf(*checkpoint, description.config, *plan));
  }
  return description;
}

}  // namespace outrider
