// A model that is a hash: the next token depends on every token before it, on how these split into prompt and output
// (penalties, min_tokens), on seed, lane and numerics. Small enough to be obviously right; any mistake in what a group
// was told, or in its order, gives other tokens.
//
// Ids are those of router/testing/byte_tokenizer.h: letters and the end token, so that there is text.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tests/simulation/event_queue.h"
#include "tests/simulation/sabotage.h"
#include "worker/step/step_backend.h"

namespace outrider::simulation {

inline constexpr int kVocabSize = 260;
inline constexpr TokenId kEndToken = 256;

// Which model: groups of one numerics id agree, others do not.
uint64_t SaltOf(const std::string& numerics_id);

// A sequence as the model sees it.
class History {
 public:
  History(absl::Span<const TokenId> prompt, const SamplingParams& params, uint64_t salt);
  void Append(TokenId token);
  void Truncate(int num_tokens);
  int size() const { return static_cast<int>(tokens_.size()); }
  int num_output_tokens() const { return size() - num_prompt_tokens_; }
  const std::vector<TokenId>& tokens() const { return tokens_; }
  // Of tokens [0, position].
  uint64_t hash(int position) const { return hashes_[position]; }
  // What plain decoding goes on with.
  TokenId Next() const;
  // Of that token; what a client is told.
  float NextLogprob() const;
  const SamplingParams& params() const { return params_; }

 private:
  uint64_t State() const;

  SamplingParams params_;
  const uint64_t salt_;
  const int num_prompt_tokens_;
  std::vector<TokenId> tokens_;
  std::vector<uint64_t> hashes_;
  std::vector<uint64_t> penalties_;  // of the output tokens so far, whatever their order
};

// The ranks of a group, or a draft worker's device: runs plans like they do, and takes time. It keeps mirrors, and a KV
// memory whose slots remember which tokens they were written for: a span that would read a slot written for others is
// an INTERNAL error, so wrong blocks, wrong positions and forgotten rollbacks are seen where they happen.
class FakeModel final : public StepBackend {
 public:
  struct Options {
    int depth = 0;
    int block_size = 4;
    int num_blocks = 64;
    uint64_t salt = 0;
    // Chance that a choice differs from the target's: a draft model.
    double disagreement = 0;
    double step_ms = 4;
    double row_ms = 0.1;
    Sabotage sabotage = Sabotage::kNone;
  };
  // `clock` outlives this; it is advanced to when a step is done.
  FakeModel(const Options& options, ProcessClock& clock)
      : options_(options), clock_(clock), slots_(static_cast<size_t>(options.num_blocks) * options.block_size) {}

  int depth() const override { return options_.depth; }
  absl::Status Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Collect() override;

  // Every call fails from now on.
  void Break(absl::Status why) { broken_ = std::move(why); }
  void set_slowness(double factor) { slowness_ = factor; }
  int num_mirrors() const { return static_cast<int>(mirrors_.size()); }

  // What a plan did wrong, first of all; OK so far.
  const absl::Status& fault() const { return fault_; }

 private:
  struct Mirror {
    History history;
    std::vector<BlockId> blocks;
    bool finished = false;
    int num_rejected = 0;  // in its last round
  };
  struct Out {
    StepResult result;
    TimePoint done;
  };
  absl::Status Run(const StepPlan& plan, StepResult& result);
  absl::Status RunSpan(const Span& span, SpanResult& result);
  uint64_t* Slot(const Mirror& mirror, int position);

  const Options options_;
  ProcessClock& clock_;
  double slowness_ = 1;
  absl::Status broken_;
  absl::Status fault_;
  std::map<SequenceId, Mirror> mirrors_;
  std::vector<uint64_t> slots_;
  std::deque<Out> out_;
  TimePoint device_free_{};
  StepId last_step_;
};

}  // namespace outrider::simulation
