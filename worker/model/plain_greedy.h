// Whether a span's target tokens are its highest raw logits: then a token is found without the rest of its row.
#pragma once

#include "kernels/sampling/verify_draft.h"

namespace outrider {

inline bool IsPlainGreedy(const kernels::VerifySpan& span) {
  const kernels::SamplingRow& row = span.row;
  return row.temperature < kernels::kTemperatureMin && row.repetition_penalty == 1.0f && row.presence_penalty == 0 &&
         row.frequency_penalty == 0 && row.bias.empty() && row.allowed_tokens == nullptr && row.num_logprobs < 0 &&
         (row.masked_ids.empty() || span.num_masked_rows == 0);
}

// Accepts the draft along the rows' highest logits: token_of(j) is row j's, -1 if the row is not finite.
template <typename TokenOf>
void VerifyPlainGreedy(const kernels::VerifySpan& span, const TokenOf& token_of, kernels::VerifiedSpan* result) {
  result->status = kernels::RowStatus::kOk;
  result->num_accepted = 0;
  result->tokens.clear();
  for (size_t j = 0; j <= span.draft_ids.size(); ++j) {
    const int32_t token = token_of(j);
    if (token < 0) {
      result->status = kernels::RowStatus::kNotFinite;
      return;
    }
    kernels::SampledToken sampled;
    sampled.token_id = token;
    result->tokens.push_back(sampled);
    if (j == span.draft_ids.size() || span.draft_ids[j] != token) return;
    ++result->num_accepted;
  }
}

}  // namespace outrider
