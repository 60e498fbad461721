#include "worker/model/model_runner.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/common/thread_pool.h"
#include "kernels/sampling/token_counts.h"
#include "worker/model/cpu_ops.h"
#include "worker/model/cuda_backend.h"
#include "worker/model/profiled_ops.h"
#include "worker/model/transformer.h"
#include "worker/parallel/single_communicator.h"
#include "worker/sampling/row_params.h"
#include "worker/sampling/verifier.h"

namespace outrider {
namespace {

// What this rank knows of a live sequence. Equal on every rank.
struct Mirror {
  std::vector<TokenId> tokens;  // prompt, then output: all committed
  int num_prompt_tokens = 0;
  SamplingParams params;
  std::vector<TokenId> masked_ids;
  std::optional<kernels::TokenCounts> counts;  // if the parameters have penalties
  std::vector<BlockId> blocks;
  bool finished = false;
  int end_written = 0;  // PlantedFault::kSkipRollback: positions below it hold keys and values that it keeps

  int num_output_tokens() const { return static_cast<int>(tokens.size()) - num_prompt_tokens; }
};

CudaOpsOptions MakeCudaOpsOptions(const LoadedModel& model, const RunnerOptions& options, Communicator* communicator,
                                  kernels::ThreadPool* pool) {
  return {.config = &model.config(),
          .plan = &model.shard_plan(),
          .rank = model.rank(),
          .vectors = &model.weights(),
          .matrices = model.cuda_weights(),
          .device_index = model.device_index(),
          .communicator = communicator,
          .transport = options.transport,
          .pool = pool,
          .num_kv_blocks = options.num_kv_blocks,
          .block_size = options.block_size,
          .max_step_tokens = options.max_step_tokens,
          .max_sequences = options.max_sequences,
          .max_positions = model.max_model_len(),
          .profile = options.profile,
          .reverse_sum_order = options.fault == PlantedFault::kReverseSumOrder};
}

}  // namespace

class ModelRunner::State {
 public:
  State(const LoadedModel& model, const RunnerOptions& options)
      : model_(model), options_(options), pool_(model.num_threads()) {}

  absl::Status Init() {
    Communicator* communicator = options_.communicator != nullptr ? options_.communicator : &single_;
    if (communicator->world_size() != model_.world_size() || communicator->rank() != model_.rank()) {
      return absl::InvalidArgumentError(absl::StrCat("the model was loaded as rank ", model_.rank(), " of ",
                                                     model_.world_size(), ", the communicator is rank ",
                                                     communicator->rank(), " of ", communicator->world_size()));
    }
    if (options_.num_kv_blocks < 1 || options_.block_size < 1 || options_.max_step_tokens < 1 ||
        options_.max_sequences < 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a runner needs at least one KV block, block position, step token and sequence; got ", options_.num_kv_blocks,
          ", ", options_.block_size, ", ", options_.max_step_tokens, ", ", options_.max_sequences));
    }
    if (model_.device() == Device::kCuda) {
      ASSIGN_OR_RETURN(ops_, CreateCudaOps(MakeCudaOpsOptions(model_, options_, communicator, &pool_)));
    } else {
      RETURN_IF_ERROR(MakeCpuOps(communicator));
    }
    if (options_.profile) ops_ = std::make_unique<ProfiledOps>(std::move(ops_), model_.world_size());
    verifier_.emplace(*ops_);
    token_ids_.reserve(options_.max_step_tokens);
    positions_.reserve(options_.max_step_tokens);
    logit_rows_.reserve(options_.max_step_tokens);
    return absl::OkStatus();
  }

  absl::Status MakeCpuOps(Communicator* communicator) {
    ASSIGN_OR_RETURN(ops_, CreateCpuOps({.config = &model_.config(),
                                         .plan = &model_.shard_plan(),
                                         .rank = model_.rank(),
                                         .weights = &model_.weights(),
                                         .numerics = model_.numerics(),
                                         .communicator = communicator,
                                         .pool = &pool_,
                                         .num_kv_blocks = options_.num_kv_blocks,
                                         .block_size = options_.block_size,
                                         .max_step_tokens = options_.max_step_tokens,
                                         .max_positions = model_.max_model_len(),
                                         .profile = options_.profile,
                                         .reverse_sum_order = options_.fault == PlantedFault::kReverseSumOrder}));
    return absl::OkStatus();
  }

  absl::Status Run(const StepPlan& plan, StepResult* result) {
    RETURN_IF_ERROR(UpdateMirrors(plan));
    RETURN_IF_ERROR(BuildInputs(plan));
    if (!token_ids_.empty()) {
      RETURN_IF_ERROR(Forward(model_.config().num_layers, Inputs(), *ops_));
      RETURN_IF_ERROR(verifier_->Verify(sampled_, given_, &sampled_results_, &given_results_));
    } else {
      sampled_results_.clear();
      given_results_.clear();
    }
    *result = {};
    result->step = plan.step;
    result->spans.reserve(plan.spans.size());
    size_t next = 0, next_given = 0;
    for (size_t i = 0; i < plan.spans.size(); ++i) {
      const RunningSpan& run = runs_[i];
      SpanResult& outcome = run.samples ? sampled_results_[next++] : unsampled_;
      if (!run.samples) outcome = {.sequence = plan.spans[i].sequence};
      for (int row = 0; row < run.num_prompt_rows; ++row) {
        GivenTokenResult& given = given_results_[next_given++];
        outcome.not_finite |= given.not_finite;
        outcome.prompt_logprobs.push_back(std::move(given.logprobs));
      }
      if (!run.samples) {
        result->spans.push_back(std::move(outcome));
        continue;
      }
      if (options_.replay != nullptr && run.draft.empty()) Replay(*run.mirror, &outcome);
      if (options_.fault == PlantedFault::kAcceptUnverified) AcceptUnverified(run.draft, &outcome);
      Commit(*run.mirror, run, outcome);
      result->spans.push_back(std::move(outcome));
    }
    result->ids_hash = HashIds(result->spans);
    return absl::OkStatus();
  }

  LogitsView last_logits() const {
    const Activation& logits = ops_->activations().logits;
    const absl::StatusOr<const float*> data = ops_->HostLogits(static_cast<int>(logit_rows_.size()));
    CHECK(data.ok());
    return {.data = *data,
            .num_rows = static_cast<int>(logit_rows_.size()),
            .num_columns = logits.num_columns,
            .stride = static_cast<int>(logits.stride)};
  }

  void SetProfiled(bool profiled) {
    CHECK(options_.profile);
    ops_->op_clock()->set_active(profiled);
  }
  absl::StatusOr<OpTimes> last_profile() const {
    CHECK(options_.profile);
    return ops_->op_clock()->Read();
  }
  int last_num_launches() const { return ops_->num_launches(); }

  int num_sequences() const { return static_cast<int>(mirrors_.size()); }

  std::optional<StepResult> submitted;

 private:
  // A span as it runs.
  struct RunningSpan {
    Mirror* mirror = nullptr;
    bool samples = false;  // false also for a discarded span
    absl::Span<const TokenId> draft;
    int end_position = 0;     // after the last row
    int num_prompt_rows = 0;  // of given_
  };

  template <typename... Args>
  absl::Status Bad(const StepPlan& plan, SequenceId sequence, const Args&... args) const {
    return absl::InvalidArgumentError(
        absl::StrCat("step ", plan.step.value, ", sequence ", sequence.value, ": ", args...));
  }

  bool InVocabulary(TokenId id) const { return id >= 0 && id < model_.config().vocab_size; }

  absl::Status CheckIds(const StepPlan& plan, SequenceId sequence, absl::Span<const TokenId> ids) const {
    for (const TokenId id : ids) {
      if (!InVocabulary(id)) {
        return Bad(plan, sequence, "token id ", id, " is outside the vocabulary of ", model_.config().vocab_size);
      }
    }
    return absl::OkStatus();
  }

  absl::Status UpdateMirrors(const StepPlan& plan) {
    for (const SequenceId sequence : plan.ends) mirrors_.erase(sequence);
    for (const SequenceStart& start : plan.starts) {
      if (start.prompt.empty()) return Bad(plan, start.sequence, "the prompt is empty");
      if (start.prompt.size() + start.output.size() > static_cast<size_t>(model_.max_model_len())) {
        return Bad(plan, start.sequence, "prompt and output have ", start.prompt.size() + start.output.size(),
                   " tokens, more than the ", model_.max_model_len(), " positions");
      }
      RETURN_IF_ERROR(CheckIds(plan, start.sequence, start.prompt));
      RETURN_IF_ERROR(CheckIds(plan, start.sequence, start.output));
      if (absl::Status status = Validate(start.params, model_.config().vocab_size); !status.ok()) {
        return Bad(plan, start.sequence, status.message());
      }
      auto [it, is_new] = mirrors_.try_emplace(start.sequence);
      if (!is_new) return Bad(plan, start.sequence, "started twice");
      it->second = std::make_unique<Mirror>();
      Mirror& mirror = *it->second;
      // Room for the whole output, so that commits do not move it.
      mirror.tokens.reserve(std::min<size_t>(start.prompt.size() + static_cast<size_t>(start.params.max_tokens),
                                             static_cast<size_t>(model_.max_model_len())));
      mirror.tokens.assign(start.prompt.begin(), start.prompt.end());
      mirror.tokens.insert(mirror.tokens.end(), start.output.begin(), start.output.end());
      mirror.num_prompt_tokens = static_cast<int>(start.prompt.size());
      mirror.params = start.params;
      mirror.masked_ids = MaskedIds(start.params);
      if (NeedsTokenCounts(start.params)) {
        mirror.counts.emplace();
        for (const TokenId id : start.prompt) mirror.counts->AddPromptToken(id);
        for (const TokenId id : start.output) mirror.counts->AddOutputToken(id);
      }
    }
    return absl::OkStatus();
  }

  // Checks the plan's spans and lays out their rows.
  absl::Status BuildInputs(const StepPlan& plan) {
    token_ids_.clear();
    positions_.clear();
    attention_spans_.clear();
    append_spans_.clear();
    logit_rows_.clear();
    sampled_.clear();
    given_.clear();
    runs_.clear();
    named_.clear();
    if (plan.spans.size() > static_cast<size_t>(options_.max_sequences)) {
      return absl::InvalidArgumentError(absl::StrCat("step ", plan.step.value, " has ", plan.spans.size(),
                                                     " spans, more than ", options_.max_sequences));
    }
    for (const Span& span : plan.spans) RETURN_IF_ERROR(AddSpan(plan, span));
    return absl::OkStatus();
  }

  absl::Status AddSpan(const StepPlan& plan, const Span& span) {
    const auto it = mirrors_.find(span.sequence);
    if (it == mirrors_.end()) return Bad(plan, span.sequence, "is not known here");
    if (!named_.insert(span.sequence).second) return Bad(plan, span.sequence, "has two spans");
    Mirror& mirror = *it->second;
    RETURN_IF_ERROR(UpdateBlocks(plan, span, mirror));

    const bool ahead = span.predecessor != StepId();
    if (mirror.finished) {
      if (!ahead) return Bad(plan, span.sequence, "has ended");
      runs_.push_back({.mirror = &mirror});
      return absl::OkStatus();
    }
    const int num_tokens = static_cast<int>(mirror.tokens.size());
    if (span.num_committed_tokens < 1 || span.first_position < 0 || span.lookahead < 0 ||
        (span.lookahead > 0 && !span.samples) || (ahead && span.num_committed_tokens != 1)) {
      return Bad(plan, span.sequence, "span of ", span.num_committed_tokens, " tokens from position ",
                 span.first_position, ", lookahead ", span.lookahead, ", is impossible");
    }
    if (!ahead && (span.num_committed_tokens > num_tokens - span.first_position ||
                   (span.samples && span.first_position + span.num_committed_tokens != num_tokens))) {
      return Bad(plan, span.sequence, "span of ", span.num_committed_tokens, " tokens from position ",
                 span.first_position, span.samples ? ", which samples," : "", " does not fit the ", num_tokens,
                 " committed tokens");
    }
    for (const DraftPath& path : span.paths) {
      if (path.base_position < 0) return Bad(plan, span.sequence, "draft path from position ", path.base_position);
      RETURN_IF_ERROR(CheckIds(plan, span.sequence, path.tokens));
    }
    const ResolvedSpan resolved = ResolveSpan(span, mirror.tokens);
    const absl::Span<const TokenId> draft = resolved.draft;
    const int64_t num_rows = int64_t{resolved.num_committed_tokens} + static_cast<int64_t>(draft.size());
    if (resolved.first_position < 0 || resolved.num_committed_tokens < 1 ||
        resolved.first_position + resolved.num_committed_tokens > num_tokens ||
        draft.size() > static_cast<size_t>(span.lookahead)) {
      return Bad(plan, span.sequence, "span resolves to ", resolved.num_committed_tokens, " tokens from position ",
                 resolved.first_position, " of ", num_tokens);
    }
    const int64_t end_position = resolved.first_position + num_rows;
    if (end_position > model_.max_model_len()) {
      return Bad(plan, span.sequence, "span ends at position ", end_position, ", beyond the ", model_.max_model_len(),
                 " positions of a sequence");
    }
    if ((end_position + options_.block_size - 1) / options_.block_size > static_cast<int64_t>(mirror.blocks.size())) {
      return Bad(plan, span.sequence, "span ends at position ", end_position, ", but its ", mirror.blocks.size(),
                 " blocks hold ", mirror.blocks.size() * options_.block_size);
    }
    const int64_t first_row = static_cast<int64_t>(token_ids_.size());
    if (first_row + num_rows > options_.max_step_tokens) {
      return Bad(plan, span.sequence, "the step has more than ", options_.max_step_tokens, " rows");
    }

    const auto first_token = mirror.tokens.begin() + resolved.first_position;
    token_ids_.insert(token_ids_.end(), first_token, first_token + resolved.num_committed_tokens);
    token_ids_.insert(token_ids_.end(), draft.begin(), draft.end());
    for (int64_t i = 0; i < num_rows; ++i) positions_.push_back(resolved.first_position + static_cast<int>(i));
    const kernels::AttentionSpan rows{.first_row = static_cast<int>(first_row),
                                      .num_rows = static_cast<int>(num_rows),
                                      .first_position = resolved.first_position,
                                      .block_table = mirror.blocks.data()};
    attention_spans_.push_back(rows);
    append_spans_.push_back(rows);
    if (options_.fault == PlantedFault::kSkipRollback) SkipWritten(mirror, &append_spans_.back());

    const int num_prompt_rows = NumPromptRows(mirror, resolved);
    for (int i = 0; i < num_prompt_rows; ++i) {
      given_.push_back({.token = mirror.tokens[resolved.first_position + i + 1],
                        .num_logprobs = mirror.params.num_prompt_logprobs,
                        .logit_row = static_cast<int>(logit_rows_.size())});
      logit_rows_.push_back(static_cast<int32_t>(first_row + i));
    }
    if (span.samples) {
      sampled_.push_back({.sequence = span.sequence,
                          .params = &mirror.params,
                          .masked_ids = mirror.masked_ids,
                          .counts = mirror.counts.has_value() ? &*mirror.counts : nullptr,
                          .num_prompt_tokens = mirror.num_prompt_tokens,
                          .num_output_tokens = mirror.num_output_tokens(),
                          .draft = draft,
                          .first_logit_row = static_cast<int>(logit_rows_.size())});
      for (int64_t row = resolved.num_committed_tokens - 1; row < num_rows; ++row) {
        logit_rows_.push_back(static_cast<int32_t>(first_row + row));
      }
    }
    runs_.push_back({.mirror = &mirror,
                     .samples = span.samples,
                     .draft = draft,
                     .end_position = static_cast<int>(end_position),
                     .num_prompt_rows = num_prompt_rows});
    return absl::OkStatus();
  }

  // Rows, from the span's first on, whose next token is the prompt's and has its logprob asked for.
  static int NumPromptRows(const Mirror& mirror, const ResolvedSpan& span) {
    if (mirror.params.num_prompt_logprobs < 0) return 0;
    return std::clamp(mirror.num_prompt_tokens - 1 - span.first_position, 0, span.num_committed_tokens);
  }

  absl::Status UpdateBlocks(const StepPlan& plan, const Span& span, Mirror& mirror) {
    if (span.blocks.empty()) return absl::OkStatus();
    const int64_t end = int64_t{span.first_block_index} + static_cast<int64_t>(span.blocks.size());
    const int64_t num_blocks_max = (int64_t{model_.max_model_len()} + options_.block_size - 1) / options_.block_size;
    if (span.first_block_index < 0 || span.first_block_index > static_cast<int64_t>(mirror.blocks.size()) ||
        end > num_blocks_max) {
      return Bad(plan, span.sequence, "block table entries ", span.first_block_index, " to ", end, " do not join its ",
                 mirror.blocks.size(), " or pass ", num_blocks_max);
    }
    for (const BlockId block : span.blocks) {
      if (block < 0 || block >= options_.num_kv_blocks) {
        return Bad(plan, span.sequence, "block ", block, " is outside the ", options_.num_kv_blocks, " blocks");
      }
    }
    if (end > static_cast<int64_t>(mirror.blocks.size())) mirror.blocks.resize(static_cast<size_t>(end));
    std::copy(span.blocks.begin(), span.blocks.end(), mirror.blocks.begin() + span.first_block_index);
    return absl::OkStatus();
  }

  StepInputs Inputs() const {
    return {.num_rows = static_cast<int>(token_ids_.size()),
            .token_ids = token_ids_.data(),
            .positions = positions_.data(),
            .append_spans = append_spans_,
            .attention_spans = attention_spans_,
            .logit_rows = logit_rows_.data(),
            .num_logit_rows = static_cast<int>(logit_rows_.size())};
  }

  void Commit(Mirror& mirror, const RunningSpan& run, const SpanResult& outcome) {
    mirror.tokens.insert(mirror.tokens.end(), outcome.tokens.begin(), outcome.tokens.end());
    if (mirror.counts.has_value()) {
      for (const TokenId id : outcome.tokens) mirror.counts->AddOutputToken(id);
    }
    mirror.finished = outcome.finish.has_value() || outcome.not_finite;
    mirror.end_written = run.end_position;
  }

  void Replay(const Mirror& mirror, SpanResult* outcome) const {
    if (outcome->tokens.size() != 1) return;
    TokenId& token = outcome->tokens[0];
    token = options_.replay(mirror.params, mirror.num_output_tokens(), token);
    // What was chosen may have ended the text; what stands there instead does not.
    if (outcome->finish != FinishReason::kLength) outcome->finish.reset();
  }

  static void SkipWritten(const Mirror& mirror, kernels::AttentionSpan* rows) {
    const int skipped = std::clamp(mirror.end_written - rows->first_position, 0, rows->num_rows);
    rows->first_row += skipped;
    rows->num_rows -= skipped;
    rows->first_position += skipped;
  }

  static void AcceptUnverified(absl::Span<const TokenId> draft, SpanResult* outcome) {
    if (draft.empty() || outcome->num_accepted > 0 || outcome->tokens.empty() || outcome->finish.has_value()) return;
    outcome->tokens.insert(outcome->tokens.begin(), draft[0]);
    if (!outcome->logprobs.empty()) outcome->logprobs.insert(outcome->logprobs.begin(), outcome->logprobs[0]);
    outcome->num_accepted = 1;
  }

  const LoadedModel& model_;
  const RunnerOptions options_;
  SingleCommunicator single_;
  kernels::ThreadPool pool_;
  std::unique_ptr<Ops> ops_;
  std::optional<Verifier> verifier_;

  absl::flat_hash_map<SequenceId, std::unique_ptr<Mirror>> mirrors_;

  // Of the current step; kept for their memory.
  std::vector<TokenId> token_ids_;
  std::vector<int32_t> positions_;
  std::vector<kernels::AttentionSpan> attention_spans_, append_spans_;
  std::vector<int32_t> logit_rows_;
  std::vector<SampledSpan> sampled_;
  std::vector<SpanResult> sampled_results_;
  SpanResult unsampled_;
  std::vector<GivenToken> given_;  // prompt tokens whose logprobs are asked for
  std::vector<GivenTokenResult> given_results_;
  std::vector<RunningSpan> runs_;
  absl::flat_hash_set<SequenceId> named_;
};

ModelRunner::ModelRunner(std::unique_ptr<State> state) : state_(std::move(state)) {}
ModelRunner::~ModelRunner() = default;

absl::Status ModelRunner::Submit(const StepPlan& plan) {
  CHECK(!state_->submitted.has_value());
  StepResult result;
  RETURN_IF_ERROR(state_->Run(plan, &result));
  state_->submitted = std::move(result);
  return absl::OkStatus();
}

absl::StatusOr<StepResult> ModelRunner::Collect() {
  CHECK(state_->submitted.has_value());
  StepResult result = *std::move(state_->submitted);
  state_->submitted.reset();
  return result;
}

ModelRunner::LogitsView ModelRunner::last_logits() const { return state_->last_logits(); }
void ModelRunner::SetProfiled(bool profiled) { state_->SetProfiled(profiled); }
absl::StatusOr<OpTimes> ModelRunner::last_profile() const { return state_->last_profile(); }
int ModelRunner::last_num_launches() const { return state_->last_num_launches(); }
int ModelRunner::num_sequences() const { return state_->num_sequences(); }

absl::StatusOr<int64_t> LoadedModel::CudaKvBytes(const RunnerOptions& options, double memory_utilization) const {
  return CudaKvBytesAvailable(MakeCudaOpsOptions(*this, options, nullptr, nullptr), memory_utilization);
}

absl::StatusOr<std::unique_ptr<ModelRunner>> LoadedModel::CreateRunner(const RunnerOptions& options) const {
  auto state = std::make_unique<ModelRunner::State>(*this, options);
  RETURN_IF_ERROR(state->Init());
  return std::unique_ptr<ModelRunner>(new ModelRunner(std::move(state)));
}

}  // namespace outrider
