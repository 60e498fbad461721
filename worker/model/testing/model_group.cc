#include "worker/model/testing/model_group.h"

#include <algorithm>
#include <thread>

#include "base/status_macros.h"
#include "gtest/gtest.h"
#include "worker/parallel/loopback_communicator.h"

namespace outrider {

absl::StatusOr<std::unique_ptr<ModelGroup>> ModelGroup::Create(const std::string& path,
                                                               const ModelGroupOptions& options) {
  std::unique_ptr<ModelGroup> group(new ModelGroup());
  group->options_ = options;
  group->communicators_ = CreateLoopbackCommunicators(options.world_size);
  for (int rank = 0; rank < options.world_size; ++rank) {
    ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(path, {.device = options.device,
                                                                          .device_index = rank,
                                                                          .numerics = options.numerics,
                                                                          .rank = rank,
                                                                          .world_size = options.world_size,
                                                                          .num_threads = options.num_threads}));
    group->models_.push_back(std::move(model));
  }
  // On GPUs the ranks meet as their runners are made.
  std::vector<absl::StatusOr<std::unique_ptr<ModelRunner>>> runners(group->models_.size());
  const auto make_runner = [&](size_t rank) {
    runners[rank] = group->models_[rank]->CreateRunner({.communicator = group->communicators_[rank].get(),
                                                        .num_kv_blocks = options.num_kv_blocks,
                                                        .block_size = options.block_size,
                                                        .max_step_tokens = options.max_step_tokens,
                                                        .max_sequences = options.max_sequences,
                                                        .transport = options.transport,
                                                        .fault = options.fault});
  };
  std::vector<std::thread> threads;
  for (size_t rank = 1; rank < runners.size(); ++rank) threads.emplace_back(make_runner, rank);
  make_runner(0);
  for (std::thread& thread : threads) thread.join();
  for (absl::StatusOr<std::unique_ptr<ModelRunner>>& runner : runners) {
    RETURN_IF_ERROR(runner.status());
    group->runners_.push_back(*std::move(runner));
  }
  return group;
}

ModelGroup::~ModelGroup() { runners_.clear(); }

absl::StatusOr<StepResult> ModelGroup::Step(const StepPlan& plan) {
  std::vector<absl::StatusOr<StepResult>> results(runners_.size(), absl::InternalError("not run"));
  const auto run = [&](size_t rank) {
    const absl::Status status = runners_[rank]->Submit(plan);
    results[rank] = status.ok() ? runners_[rank]->Collect() : absl::StatusOr<StepResult>(status);
  };
  std::vector<std::thread> threads;
  for (size_t rank = 1; rank < runners_.size(); ++rank) threads.emplace_back(run, rank);
  run(0);
  for (std::thread& thread : threads) thread.join();
  for (const absl::StatusOr<StepResult>& result : results) {
    if (!result.ok()) return result.status();
    EXPECT_EQ(result->ids_hash, results[0]->ids_hash);
  }
  return results[0];
}

std::vector<std::vector<float>> ModelGroup::Logits() const {
  std::vector<std::vector<float>> rows(runners_[0]->last_logits().num_rows);
  for (const std::unique_ptr<ModelRunner>& runner : runners_) {
    const ModelRunner::LogitsView view = runner->last_logits();
    for (int row = 0; row < view.num_rows; ++row) {
      const float* data = view.data + static_cast<int64_t>(row) * view.stride;
      rows[row].insert(rows[row].end(), data, data + view.num_columns);
    }
  }
  return rows;
}

GroupDriver::GroupDriver(ModelGroup& group) : group_(group) {
  for (int block = 0; block < group.options().num_kv_blocks; ++block) free_blocks_.push_back(block);
}

std::vector<BlockId> GroupDriver::TakeBlocks(int count) {
  CHECK(count <= static_cast<int>(free_blocks_.size()));
  std::vector<BlockId> blocks;
  // From both ends in turn, so that a sequence's blocks are not in order.
  for (int i = 0; i < count; ++i) {
    const auto it =
        (static_cast<uint64_t>(i) + next_sequence_) % 2 == 0 ? free_blocks_.begin() : free_blocks_.end() - 1;
    blocks.push_back(*it);
    free_blocks_.erase(it);
  }
  return blocks;
}

absl::StatusOr<GroupDriver::Generated> GroupDriver::Generate(const std::vector<TokenId>& prompt,
                                                             const GenerateOptions& options) {
  const int block_size = group_.options().block_size;
  const auto blocks_for = [&](int num_tokens) { return (num_tokens + block_size - 1) / block_size; };
  struct Neighbour {
    SequenceId id;
    int num_tokens;
    std::vector<BlockId> blocks;
    bool started = false;
  };
  const SequenceId id(next_sequence_++);
  std::vector<TokenId> committed = prompt;
  committed.insert(committed.end(), options.delivered.begin(), options.delivered.end());
  const int num_tokens_max = static_cast<int>(prompt.size()) + options.params.max_tokens + options.lookahead + 1;
  const std::vector<BlockId> blocks = TakeBlocks(blocks_for(num_tokens_max));
  std::vector<Neighbour> neighbours;
  SamplingParams neighbour_params;
  neighbour_params.temperature = 0;
  neighbour_params.max_tokens = options.params.max_tokens + 64;
  for (const std::vector<TokenId>& tokens : options.neighbours) {
    neighbours.push_back({SequenceId(next_sequence_++), static_cast<int>(tokens.size()), {}});
    neighbours.back().blocks = TakeBlocks(blocks_for(neighbours.back().num_tokens + neighbour_params.max_tokens));
  }

  Generated generated;
  int num_computed = 0;
  bool started = false;
  StepId previous;
  while (true) {
    StepPlan plan;
    plan.step = StepId(next_step_++);
    Span span;
    span.sequence = id;
    if (!started) {
      plan.starts.push_back({id, prompt, options.delivered, options.params});
      span.blocks = blocks;
    }
    span.first_position = num_computed;
    span.num_committed_tokens = std::min(options.chunk_size, static_cast<int>(committed.size()) - num_computed);
    span.samples = num_computed + span.num_committed_tokens == static_cast<int>(committed.size());
    if (span.samples && started && options.plan_ahead && span.num_committed_tokens == 1) span.predecessor = previous;
    if (span.samples && options.lookahead > 0 && !options.draft_source.empty()) {
      span.lookahead = options.lookahead;
      DraftPath path;
      const size_t offset = committed.size() - prompt.size();
      path.base_position = static_cast<int>(committed.size());
      for (size_t i = offset; i < options.draft_source.size() && i < offset + options.lookahead; ++i) {
        path.tokens.push_back(options.draft_source[i]);
      }
      span.paths.push_back(path);
    }
    std::vector<Span> beside;
    for (size_t i = 0; i < neighbours.size(); ++i) {
      Neighbour& neighbour = neighbours[i];
      Span other;
      other.sequence = neighbour.id;
      other.samples = true;
      if (!neighbour.started) {
        plan.starts.push_back({neighbour.id, options.neighbours[i], {}, neighbour_params});
        other.num_committed_tokens = neighbour.num_tokens;
        other.blocks = neighbour.blocks;
        neighbour.started = true;
      } else {
        other.first_position = neighbour.num_tokens - 1;
        other.num_committed_tokens = 1;
      }
      ++neighbour.num_tokens;
      beside.push_back(other);
    }
    const size_t at = options.neighbours_first ? beside.size() : 0;
    plan.spans = beside;
    plan.spans.insert(plan.spans.begin() + static_cast<std::ptrdiff_t>(at), span);
    started = true;
    previous = plan.step;
    ASSIGN_OR_RETURN(const StepResult result, group_.Step(plan));
    EXPECT_EQ(result.spans.size(), plan.spans.size());
    const SpanResult& outcome = result.spans[at];
    generated.prompt_logprobs.insert(generated.prompt_logprobs.end(), outcome.prompt_logprobs.begin(),
                                     outcome.prompt_logprobs.end());
    generated.not_finite |= outcome.not_finite;
    num_computed += span.num_committed_tokens;
    if (!span.samples) {
      EXPECT_TRUE(outcome.tokens.empty());
      continue;
    }
    ++generated.rounds;
    generated.accepted += outcome.num_accepted;
    if (options.keep_logits) {
      const std::vector<std::vector<float>> logits = group_.Logits();
      const size_t first = options.neighbours_first ? neighbours.size() : 0;
      for (size_t i = 0; i < outcome.tokens.size(); ++i) generated.logits.push_back(logits[first + i]);
    }
    generated.output.insert(generated.output.end(), outcome.tokens.begin(), outcome.tokens.end());
    generated.logprobs.insert(generated.logprobs.end(), outcome.logprobs.begin(), outcome.logprobs.end());
    committed.insert(committed.end(), outcome.tokens.begin(), outcome.tokens.end());
    num_computed = static_cast<int>(committed.size()) - 1;
    if (outcome.finish.has_value() || outcome.not_finite) {
      generated.finish = outcome.finish;
      break;
    }
  }
  StepPlan end;
  end.step = StepId(next_step_++);
  end.ends.push_back(id);
  free_blocks_.insert(free_blocks_.end(), blocks.begin(), blocks.end());
  for (const Neighbour& neighbour : neighbours) {
    end.ends.push_back(neighbour.id);
    free_blocks_.insert(free_blocks_.end(), neighbour.blocks.begin(), neighbour.blocks.end());
  }
  RETURN_IF_ERROR(group_.Step(end).status());
  return generated;
}

}  // namespace outrider
