// What a sequence cost.
#pragma once

#include <array>
#include <cstdint>

namespace outrider {

// The longest draft that a round verifies.
inline constexpr int kMaxRoundDraft = 32;

// rounds + plain_steps = verify passes that gave tokens; tokens a round = 1 + accepted_tokens / rounds.
struct Usage {
  int prompt_tokens = 0;
  int output_tokens = 0;    // the end token included; delivered by an earlier attempt included
  int cached_tokens = 0;    // prompt tokens found in the prefix cache or in another choice of the same request
  int rounds = 0;           // steps that verified at least one draft token
  int plain_steps = 0;      // steps that gave a token without a draft
  int draft_tokens = 0;     // verified
  int accepted_tokens = 0;  // of them
  int longest_draft = 0;    // tokens of it that a round verified
  std::array<uint32_t, kMaxRoundDraft + 1> rounds_by_accepted = {};  // [j]: rounds that accepted j
  int prediction_tokens = 0;           // of draft_tokens, those that the request's prediction gave
  int accepted_prediction_tokens = 0;  // of them
};

}  // namespace outrider
