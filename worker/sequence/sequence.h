// Sequence: the tokens of one choice of a request inside a target group, and how many of them are in the KV cache.
//
// Invariants:
//   - the prompt never changes; output grows by Append only, and shrinks only once, by CutOutput, when it ends;
//   - 0 <= num_computed_tokens() <= num_tokens(): the KV of tokens [0, num_computed_tokens()) is in its blocks.
//
// Thread safety: none. Owned by the scheduler's thread.
#pragma once

#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "base/clock.h"
#include "base/ids.h"
#include "worker/sequence/request.h"
#include "worker/sequence/sampling_params.h"
#include "worker/step/step_result.h"  // FinishReason

namespace outrider {

class Sequence {
 public:
  // REQUIRES: the prompt is not empty.
  Sequence(SequenceId id, const Request& request, const RequestLane& lane);

  SequenceId id() const { return id_; }
  const SamplingParams& params() const { return params_; }
  // Drafting is allowed, and how far: Request::kAutoLookahead or a fixed number.
  bool may_draft() const { return may_draft_; }
  int lookahead() const { return lookahead_; }
  // Null: its trace is not recorded.
  const TraceContext* trace() const { return trace_.has_value() ? &*trace_ : nullptr; }
  // What the output may be; empty: nothing is known.
  absl::Span<const TokenId> prediction() const { return prediction_; }

  absl::Span<const TokenId> tokens() const { return tokens_; }  // all committed: prompt, then output
  absl::Span<const TokenId> prompt() const { return tokens().first(num_prompt_tokens_); }
  absl::Span<const TokenId> output() const { return tokens().subspan(num_prompt_tokens_); }
  int num_tokens() const { return static_cast<int>(tokens_.size()); }
  int num_prompt_tokens() const { return num_prompt_tokens_; }
  int num_output_tokens() const { return num_tokens() - num_prompt_tokens_; }
  int num_computed_tokens() const { return num_computed_tokens_; }
  // Tokens it can have at most: prompt + max_tokens.
  int num_tokens_max() const { return num_prompt_tokens_ + params_.max_tokens; }

  // Commits one output token; the reason if it ends the sequence. REQUIRES: it has not ended.
  std::optional<FinishReason> Append(TokenId token);
  // Whether the output it began with has ended already.
  std::optional<FinishReason> EndedFromStart() const;
  // Keeps the first num_output_tokens output tokens. REQUIRES: 0 <= num_output_tokens <= num_output_tokens().
  void CutOutput(int num_output_tokens);
  // REQUIRES: within [0, num_tokens()].
  void SetComputed(int num_computed_tokens);

 private:
  const SequenceId id_;
  const int num_prompt_tokens_;
  const SamplingParams params_;
  const bool may_draft_;
  const int lookahead_;
  const std::vector<TokenId> prediction_;
  const std::optional<TraceContext> trace_;
  std::vector<TokenId> tokens_;
  int num_computed_tokens_ = 0;
};

}  // namespace outrider
