#include "worker/sampling/row_params.h"

#include <algorithm>

namespace outrider {

bool NeedsTokenCounts(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f;
}

std::vector<TokenId> MaskedIds(const SamplingParams& params) {
  std::vector<TokenId> ids = params.end_token_ids;
  ids.insert(ids.end(), params.stop_token_ids.begin(), params.stop_token_ids.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

kernels::VerifySpan ToVerifySpan(const SampledSpan& span) {
  const SamplingParams& params = *span.params;
  kernels::VerifySpan verify;
  verify.row = {.temperature = params.temperature,
                .top_k = params.top_k,
                .top_p = params.top_p,
                .min_p = params.min_p,
                .repetition_penalty = params.repetition_penalty,
                .presence_penalty = params.presence_penalty,
                .frequency_penalty = params.frequency_penalty,
                .seed = params.seed,
                .lane = params.lane,
                .position = static_cast<uint32_t>(span.num_prompt_tokens + span.num_output_tokens),
                .bias = params.logit_bias,
                .masked_ids = {span.masked_ids.data(), span.masked_ids.size()},
                .counts = span.counts,
                .num_logprobs = params.num_logprobs};
  verify.num_masked_rows = std::max(0, params.min_tokens - span.num_output_tokens);
  verify.draft_ids = {span.draft.data(), span.draft.size()};
  verify.rule = params.acceptance == Acceptance::kRejection ? kernels::AcceptanceRule::kRejection
                                                            : kernels::AcceptanceRule::kCoupled;
  return verify;
}

}  // namespace outrider
