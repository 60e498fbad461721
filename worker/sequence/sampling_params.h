// How a sequence's tokens are chosen: every parameter that shapes its logits, resolved.
//
// Output ids are a pure function of numerics, prompt, these parameters, seed and lane (ARCHITECTURE.md, Exactness).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"

namespace outrider {

enum class Acceptance : uint8_t { kCoupled, kRejection };

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  float top_p = 1.0f;        // (0, 1]
  int top_k = 0;             // 0: off
  float min_p = 0.0f;        // [0, 1]
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<TokenId, float>> logit_bias;
  int max_tokens = 16;                  // > 0; prompt + max_tokens fits the context
  int min_tokens = 0;                   // end and stop ids are masked while the output is shorter
  std::vector<TokenId> end_token_ids;   // the model's; empty with ignore_eos
  std::vector<TokenId> stop_token_ids;  // the request's
  uint64_t seed = 0;
  uint32_t lane = 0;      // choice index: same seed, other noise
  int num_logprobs = -1;  // -1: none; 0: the chosen token's; N: and the best N (at most 20)
  Acceptance acceptance = Acceptance::kCoupled;
  // Of the prompt's tokens after the first: -1: none; 0: each one's own; N: and the best N. Costs a pass through the
  // head for each position, and keeps the prompt from being found in the prefix cache.
  int num_prompt_logprobs = -1;
};

inline constexpr int kMaxLogprobs = 20;
// Logprobs of a prompt altogether: positions times 1 + num_prompt_logprobs. Bounds what waits for a reader.
inline constexpr int64_t kMaxPromptLogprobs = 1 << 17;
inline constexpr int kMaxLogitBias = 1024;
inline constexpr int kMaxStopTokenIds = 128;

// INVALID_ARGUMENT naming the first parameter that is out of range, not finite, or an id outside [0, vocab_size).
absl::Status Validate(const SamplingParams& params, int vocab_size);

}  // namespace outrider
