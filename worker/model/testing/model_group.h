// ModelGroup: the ranks of a target group as threads of a test, each with its share of a model, driven step by step.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_runner.h"
#include "worker/parallel/communicator.h"
#include "worker/step/step_plan.h"
#include "worker/step/step_result.h"

namespace outrider {

struct ModelGroupOptions {
  Device device = Device::kCpu;
  Numerics numerics = Numerics::kInvariant;
  int world_size = 1;
  int num_threads = 1;
  int num_kv_blocks = 64;
  int block_size = 16;
  int max_step_tokens = 256;
  int max_sequences = 16;
  DeviceTransport transport = DeviceTransport::kAuto;
  PlantedFault fault = PlantedFault::kNone;
};

class ModelGroup {
 public:
  static absl::StatusOr<std::unique_ptr<ModelGroup>> Create(const std::string& path, const ModelGroupOptions& options);
  ~ModelGroup();

  // Runs a step on every rank; fails the test if their results differ.
  absl::StatusOr<StepResult> Step(const StepPlan& plan);

  // The last step's logits, all ranks' parts joined: [rows][vocab_size].
  std::vector<std::vector<float>> Logits() const;

  const LoadedModel& model(int rank = 0) const { return *models_[rank]; }
  const ModelRunner& runner(int rank = 0) const { return *runners_[rank]; }
  const ModelGroupOptions& options() const { return options_; }

 private:
  ModelGroup() = default;
  ModelGroupOptions options_;
  std::vector<std::unique_ptr<LoadedModel>> models_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
  std::vector<std::unique_ptr<ModelRunner>> runners_;
};

// Plans the steps of sequences of a ModelGroup, one at a time: a scheduler without policy. Each sequence gets blocks of
// its own, in an order that depends on the sequence, and gives them back when it ends.
class GroupDriver {
 public:
  explicit GroupDriver(ModelGroup& group);

  struct Generated {
    std::vector<TokenId> output;
    std::vector<TokenLogprobs> logprobs;
    std::vector<TokenLogprobs> prompt_logprobs;  // of positions 1, 2, ...
    std::vector<std::vector<float>> logits;      // of the row that chose each output token
    std::optional<FinishReason> finish;
    bool not_finite = false;
    int rounds = 0;
    int accepted = 0;
  };
  struct GenerateOptions {
    SamplingParams params;
    std::vector<TokenId> delivered;  // output of an earlier attempt
    int chunk_size = 1 << 20;        // prompt tokens a step
    int lookahead = 0;
    std::vector<TokenId> draft_source;  // the drafts are this output at their positions (empty: none)
    bool keep_logits = false;
    bool plan_ahead = false;  // spans after the first name a predecessor
    // Prompts that run beside it, one decode row a step each.
    std::vector<std::vector<TokenId>> neighbours;
    bool neighbours_first = false;
  };
  // Runs a sequence to its end.
  absl::StatusOr<Generated> Generate(const std::vector<TokenId>& prompt, const GenerateOptions& options);

 private:
  std::vector<BlockId> TakeBlocks(int count);

  ModelGroup& group_;
  uint64_t next_sequence_ = 1;
  uint64_t next_step_ = 1;
  std::vector<BlockId> free_blocks_;
};

}  // namespace outrider
