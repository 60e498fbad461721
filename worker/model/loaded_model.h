// LoadedModel: one rank's share of a model's weights in memory, and what others need to know of the model. It makes the
// ModelRunner that computes with it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "text/tokenizer_definition.h"
#include "worker/model/checkpoint.h"
#include "worker/model/cuda_backend.h"
#include "worker/model/device.h"
#include "worker/model/load_format.h"
#include "worker/model/model_config.h"
#include "worker/model/shard_plan.h"
#include "worker/model/weights.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/device_transport.h"
#include "worker/sequence/sampling_params.h"

namespace outrider {

class ModelRunner;

// Part of every numerics_id. Raise it with any change of kernels, forward pass or sampling that can change a bit.
inline constexpr int kKernelRevision = 2;

struct LoadOptions {
  Device device = Device::kCpu;
  int device_index = 0;  // of the GPU
  Numerics numerics = Numerics::kInvariant;
  int rank = 0;
  int world_size = 1;
  int num_threads = 1;    // of loading and of the runners
  int max_model_len = 0;  // positions of a sequence; 0: the model's own; never more than that
  LoadFormat load_format = LoadFormat::kAuto;
};

// On purpose wrong, so that tests can prove that they would notice. Never set outside tests.
enum class PlantedFault : uint8_t {
  kNone,
  kAcceptUnverified,  // a span's first draft token is accepted whatever the target says
  kSkipRollback,      // KV of rejected draft tokens stays where the next step should overwrite it
  // A step of more than one row adds its attention and feed-forward outputs up otherwise than a step of one row: as
  // another order of adding would, but rounding to bf16, so that it reaches ids within a few tokens.
  kReverseSumOrder,
};

struct RunnerOptions {
  // Joins the ranks of the group; outlives the runner. Null only if the model was loaded with world_size 1.
  Communicator* communicator = nullptr;
  int num_kv_blocks = 0;  // of block_size positions; blocks are numbered from 0
  int block_size = 16;    // a power of two, at most 256
  int max_step_tokens = 256;
  int max_sequences = 64;                              // spans in a step
  DeviceTransport transport = DeviceTransport::kAuto;  // between the GPUs of several ranks
  bool profile = false;                                // with ModelRunner::SetProfiled, for benches
  // For benches (worker/speculation/draft_replay.h), where set: the token that stands at a position of the output, in
  // place of the one that was chosen. Of spans without drafts.
  std::function<TokenId(const SamplingParams& params, int index, TokenId chosen)> replay;
  PlantedFault fault = PlantedFault::kNone;
};

// Thread safety: constant after construction. Outlives its runners.
class LoadedModel {
 public:
  ~LoadedModel();

  const ModelConfig& config() const { return config_; }
  // As the checkpoint names itself, or the name of the file or folder.
  const std::string& name() const { return name_; }
  // Empty (no tokens) if there is none, or one of a kind that this build does not know.
  const text::TokenizerDefinition& tokenizer() const { return tokenizer_; }
  // Ids that end a text, ascending: the tokenizer's and those of generation_config.json.
  const std::vector<TokenId>& end_token_ids() const { return end_token_ids_; }
  const GenerationDefaults& generation_defaults() const { return checkpoint_->generation_defaults(); }

  Device device() const { return options_.device; }
  Numerics numerics() const { return options_.numerics; }
  int rank() const { return options_.rank; }
  int world_size() const { return options_.world_size; }
  int num_threads() const { return options_.num_threads; }
  // Positions of the longest sequence.
  int max_model_len() const { return max_model_len_; }

  // 32 hexadecimal digits over configuration and weights, tensor-parallel degree and shard plan, numerics, KV dtype,
  // kernel revision and CPU target or GPU. Equal on all ranks of a group; groups with equal ids give equal output ids.
  const std::string& numerics_id() const { return numerics_id_; }

  // What this rank stores for one block of `block_size` positions, over all layers.
  int64_t kv_bytes_per_block(int block_size) const;
  // Of this rank's weights.
  int64_t weight_bytes() const { return weights_->bytes; }

  const Weights& weights() const { return *weights_; }
  const RankShard& shard() const { return plan_.ranks[options_.rank]; }
  const ShardPlan& shard_plan() const { return plan_; }
  // Null unless device() is kCuda.
  const CudaWeights* cuda_weights() const { return cuda_weights_.get(); }
  int device_index() const { return options_.device_index; }

  // Bytes that a runner of `options` may give to KV blocks on its GPU, which may be used up to `memory_utilization` of
  // the whole. RESOURCE_EXHAUSTED with the arithmetic if nothing is left. REQUIRES: device() is kCuda.
  absl::StatusOr<int64_t> CudaKvBytes(const RunnerOptions& options, double memory_utilization) const;

  // INVALID_ARGUMENT naming an option out of range; RESOURCE_EXHAUSTED with the bytes if the KV storage does not fit.
  absl::StatusOr<std::unique_ptr<ModelRunner>> CreateRunner(const RunnerOptions& options) const;

 private:
  friend absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const std::string& path, const LoadOptions& options);
  LoadedModel();

  LoadOptions options_;
  ModelConfig config_;
  std::string name_;
  text::TokenizerDefinition tokenizer_;
  std::vector<TokenId> end_token_ids_;
  int max_model_len_ = 0;
  std::string numerics_id_;
  ShardPlan plan_;
  std::unique_ptr<Checkpoint> checkpoint_;  // the embedding table is read from its mapping
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<CudaWeights> cuda_weights_;  // with device kCuda: the matrices, which `weights_` then has not
};

// Reads a GGUF file or a Hugging Face folder. Logs progress. Errors: those of OpenCheckpoint, PlanShards and
// LoadWeights; INVALID_ARGUMENT for a rank or number of threads out of range, or a tokenizer whose size is not the
// vocabulary's; with device kCuda those of LoadCudaWeights, and UNIMPLEMENTED for numerics `reference`.
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const std::string& path, const LoadOptions& options);

}  // namespace outrider
