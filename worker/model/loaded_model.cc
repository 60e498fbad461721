#include "worker/model/loaded_model.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/gemm/gemm.h"
#include "text/tokenizer.h"
#include "worker/model/content_hash.h"
#include "worker/model/kv_storage.h"
#include "worker/model/open_checkpoint.h"

namespace outrider {
namespace {

absl::Status CheckOptions(const LoadOptions& options) {
  if (options.world_size < 1 || options.rank < 0 || options.rank >= options.world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", options.rank, " of ", options.world_size, " ranks does not exist"));
  }
  if (options.num_threads < 1 || options.num_threads > kernels::ThreadPool::kMaxThreads) {
    return absl::InvalidArgumentError(absl::StrCat("number of threads is ", options.num_threads, ", outside 1 to ",
                                                   kernels::ThreadPool::kMaxThreads));
  }
  if (options.max_model_len < 0) {
    return absl::InvalidArgumentError(absl::StrCat("max_model_len is ", options.max_model_len, ", below 0"));
  }
  return absl::OkStatus();
}

void SortUnique(std::vector<TokenId>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

// The ids that end a text. A tokenizer of a kind that is known but not built leaves those that the file names.
absl::StatusOr<std::vector<TokenId>> EndTokenIds(const std::string& path, const text::TokenizerDefinition& definition) {
  absl::StatusOr<std::unique_ptr<text::Tokenizer>> tokenizer = text::MakeTokenizer(definition);
  if (tokenizer.ok()) return (*tokenizer)->end_of_generation_ids();
  if (tokenizer.status().code() != absl::StatusCode::kUnimplemented) {
    return absl::Status(tokenizer.status().code(), absl::StrCat(path, ": ", tokenizer.status().message()));
  }
  LogWarning(path, ": text can not be served, token ids can: ", tokenizer.status().message());
  std::vector<TokenId> ids;
  for (const std::optional<TokenId>& id : {definition.eos_id, definition.eot_id, definition.eom_id}) {
    if (id.has_value()) ids.push_back(*id);
  }
  SortUnique(ids);
  return ids;
}

}  // namespace

LoadedModel::LoadedModel() = default;
LoadedModel::~LoadedModel() = default;

int64_t LoadedModel::kv_bytes_per_block(int block_size) const {
  if (options_.device == Device::kCuda) return CudaKvBytesPerBlock(config_, shard(), block_size);
  return MakeKvLayout(config_, shard(), options_.numerics, 1, block_size).block_bytes() * config_.num_layers;
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const std::string& path, const LoadOptions& options) {
  const auto started = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<LoadedModel> model(new LoadedModel());
  model->options_ = options;
  ASSIGN_OR_RETURN(model->checkpoint_, OpenCheckpoint(path, options.load_format));
  const Checkpoint& checkpoint = *model->checkpoint_;
  ASSIGN_OR_RETURN(model->config_, checkpoint.config());
  const ModelConfig& config = model->config_;
  model->name_ = checkpoint.name();
  if (checkpoint.tokenizer().ok()) {
    model->tokenizer_ = *checkpoint.tokenizer();
  } else if (checkpoint.tokenizer().status().code() == absl::StatusCode::kUnimplemented) {
    LogWarning("text can not be served, token ids can: ", checkpoint.tokenizer().status().message());
  } else {
    return checkpoint.tokenizer().status();
  }
  model->end_token_ids_ = checkpoint.generation_defaults().end_token_ids;
  if (!model->tokenizer_.tokens.empty()) {
    if (model->tokenizer_.tokens.size() != static_cast<size_t>(config.vocab_size)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": the tokenizer has ", model->tokenizer_.tokens.size(),
                                                     " tokens, the embedding table ", config.vocab_size, " rows"));
    }
    ASSIGN_OR_RETURN(const std::vector<TokenId> ends, EndTokenIds(path, model->tokenizer_));
    model->end_token_ids_.insert(model->end_token_ids_.end(), ends.begin(), ends.end());
    SortUnique(model->end_token_ids_);
  }
  for (const TokenId id : model->end_token_ids_) {
    if (id >= config.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": the end token ", id, " is outside the vocabulary of ", config.vocab_size));
    }
  }
  if (options.max_model_len > config.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("max_model_len ", options.max_model_len, " is more than the ",
                                                   config.max_positions, " positions of ", path));
  }
  model->max_model_len_ = options.max_model_len > 0 ? options.max_model_len : config.max_positions;
  ASSIGN_OR_RETURN(model->plan_, PlanShards(config, options.world_size));
  kernels::ThreadPool pool(options.num_threads);
  std::string target = kernels::GemmTargetName();
  if (options.device == Device::kCuda) {
    if (options.numerics != Numerics::kInvariant) {
      return absl::UnimplementedError(absl::StrCat("numerics ", NumericsName(options.numerics),
                                                   " are computed on CPUs only; use invariant, or device cpu"));
    }
    ASSIGN_OR_RETURN(CudaLoadResult loaded, LoadCudaWeights({.checkpoint = &checkpoint,
                                                             .config = &config,
                                                             .shard = &model->shard(),
                                                             .device_index = options.device_index,
                                                             .pool = &pool}));
    model->weights_ = std::move(loaded.vectors);
    model->cuda_weights_ = std::move(loaded.matrices);
    target = CudaNumericsName();
  } else {
    ASSIGN_OR_RETURN(model->weights_, LoadWeights(checkpoint, config, model->shard(), options.numerics));
  }

  const std::string identity = absl::StrCat(
      checkpoint.Hash(pool), "|", options.world_size, "|", model->plan_.ToString(), "|", NumericsName(options.numerics),
      "|", kernels::DTypeName(KvDtype(options.numerics)), "|", kKernelRevision, "|", target);
  model->numerics_id_ =
      ContentHash(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(identity.data()), identity.size()), pool);

  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  LogInfo("loaded ", model->name_, " rank ", options.rank, " of ", options.world_size, ": ",
          model->weights_->bytes >> 20, " MiB of weights, ", NumericsName(options.numerics), ", ", target,
          ", numerics id ", model->numerics_id_, ", in ", static_cast<int>(seconds * 1000), " ms");
  return model;
}

}  // namespace outrider
