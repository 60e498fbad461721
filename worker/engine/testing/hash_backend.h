// HashBackend is a StepBackend without a model: the next token is a hash of all tokens before it, of seed and lane. It
// keeps mirrors and a KV cache of its own and proves that plans are sound: every position that a span reads must hold
// what the sequence's tokens would have left there.
//
// Thread safety: Submit and Collect from one thread; the rest before, or from that thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/step/step_backend.h"

namespace outrider {

// What a sequence with these tokens goes on with.
TokenId HashNextToken(absl::Span<const TokenId> tokens, const SamplingParams& params, int vocab_size);

// The whole output, as plain decoding gives it: the slow obvious reference.
std::vector<TokenId> HashOutput(const std::vector<TokenId>& prompt, const SamplingParams& params, int vocab_size);

// What is told of the last token of a prompt's beginning.
float HashPromptLogprob(absl::Span<const TokenId> tokens);

class HashBackend final : public StepBackend {
 public:
  struct Options {
    int depth = 0;
    int vocab_size = 1000;
    int block_size = 4;
    int num_blocks = 64;
    // Share of positions, in 1/256, where the token differs from HashNextToken: a draft model that is not the target.
    int disagreement = 0;
  };
  explicit HashBackend(const Options& options) : options_(options), kv_(options.num_blocks * options.block_size) {}

  int depth() const override { return options_.depth; }
  // INTERNAL naming what is wrong with the plan.
  absl::Status Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Collect() override;

  // Called with each plan before it runs; an error is returned by Submit.
  std::function<absl::Status(const StepPlan&)> on_submit;
  // Called with each result before it is collected.
  std::function<void(const StepResult&)> on_collect;

  int num_sequences() const { return static_cast<int>(mirrors_.size()); }
  int64_t num_steps() const { return num_steps_; }
  int64_t num_computed_tokens() const { return num_computed_tokens_; }

 private:
  struct Mirror {
    SequenceStart start;
    std::vector<TokenId> tokens;
    std::vector<BlockId> blocks;
    bool finished = false;
  };
  absl::Status RunSpan(const Span& span, SpanResult& result);
  uint64_t* Slot(const Mirror& mirror, int position);

  const Options options_;
  std::vector<uint64_t> kv_;  // by slot: hash of all tokens up to and with the position's
  std::map<SequenceId, Mirror> mirrors_;
  std::deque<StepResult> results_;
  StepId last_step_;
  int64_t num_steps_ = 0;
  int64_t num_computed_tokens_ = 0;
};

}  // namespace outrider
