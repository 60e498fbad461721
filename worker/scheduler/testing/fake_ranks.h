// FakeRanks runs StepPlans like the ranks of a group, over a model that is a hash: the next token is a function of all
// tokens before it, seed and lane. It keeps mirrors as ranks do, and a KV memory whose slots remember which tokens they
// were written for; a span that would read a slot written for others is refused, so wrong blocks, wrong positions and
// forgotten rollbacks are seen where they happen.
//
// Thread safety: none.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "worker/step/step_plan.h"
#include "worker/step/step_result.h"

namespace outrider {

class FakeRanks {
 public:
  // What may be broken on purpose, to see that checkers see it.
  enum class Fault { kNone, kAcceptsFirstDraftTokenUnverified, kForgetsTargetToken };

  struct Options {
    int vocab_size = 50;
    int block_size = 4;
    int num_blocks = 32;
    int max_step_tokens = 64;
    int max_sequences = 8;
    Fault fault = Fault::kNone;
  };
  explicit FakeRanks(const Options& options);

  // What plain decoding goes on with, and the whole output until the sequence ends: the slow obvious reference.
  static TokenId NextToken(absl::Span<const TokenId> tokens, const SamplingParams& params, int vocab_size);
  static std::vector<TokenId> Output(const std::vector<TokenId>& prompt, const SamplingParams& params, int vocab_size);

  // Plans run in order. INTERNAL naming what is wrong with the plan.
  absl::StatusOr<StepResult> Run(const StepPlan& plan);

  int num_mirrors() const { return static_cast<int>(mirrors_.size()); }

 private:
  struct Mirror {
    SamplingParams params;
    int num_prompt_tokens = 0;
    std::vector<TokenId> tokens;
    std::vector<uint64_t> hashes;  // of tokens [0, i]
    std::vector<BlockId> blocks;
    bool finished = false;
    void Append(TokenId token);
  };
  absl::Status CheckReads(const Span& span);
  absl::Status RunSpan(const Span& span, SpanResult& result);
  uint64_t* Slot(const Mirror& mirror, int position);

  const Options options_;
  std::map<SequenceId, Mirror> mirrors_;
  std::vector<SequenceId> ended_;
  std::vector<uint64_t> slots_;        // hash of all tokens up to and with the one whose KV it holds
  std::set<const uint64_t*> written_;  // in this step
  StepId last_step_;
};

}  // namespace outrider
