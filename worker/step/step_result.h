// StepResult: what came of a StepPlan. Equal on every rank of a group; `ids_hash` proves it.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "worker/step/step_plan.h"

namespace outrider {

enum class FinishReason : uint8_t { kEndToken, kStopToken, kStopString, kLength, kCancelled };

struct TokenLogprobs {
  float logprob = 0;                           // of the chosen token, from raw logits
  std::vector<std::pair<TokenId, float>> top;  // best first
  int rank = 0;                                // of a prompt's token: 1 + how many have a higher logit; else 0
};

// The outcome of one span that samples; spans that do not sample, and discarded ones, have no `tokens`.
struct SpanResult {
  SequenceId sequence;
  int num_draft_tokens = 0;  // verified
  int num_accepted = 0;      // of them
  // Newly committed: the accepted draft tokens, then the target token; cut after the first that ends the sequence.
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobs> logprobs;  // one a token, if asked for
  // If asked for: of the prompt's tokens that follow the span's, from position first_position + 1 on.
  std::vector<TokenLogprobs> prompt_logprobs;
  std::optional<FinishReason> finish;  // kEndToken, kStopToken or kLength: the last token ended the sequence
  bool not_finite = false;             // logits were not finite: the sequence must end with an error
};

// Whether the span was planned before the result that ended its sequence: no rank computed it.
inline bool IsDiscarded(const Span& span, const SpanResult& result) {
  return span.samples && span.predecessor != StepId() && result.tokens.empty() && !result.not_finite;
}

struct StepResult {
  StepId step;
  std::vector<SpanResult> spans;  // in the plan's order
  uint64_t ids_hash = 0;          // of all tokens and accepted counts; compared between ranks
};

// Hash of the chosen ids for the comparison between ranks: FNV-1a over (sequence, accepted, tokens) in order.
uint64_t HashIds(const std::vector<SpanResult>& spans);

}  // namespace outrider
