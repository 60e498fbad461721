// From a sequence's parameters and mirror to what shapes one row of logits (kernels/sampling/sample_row.h). Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/ids.h"
#include "kernels/sampling/sample_row.h"
#include "kernels/sampling/token_counts.h"
#include "kernels/sampling/verify_draft.h"
#include "worker/sequence/sampling_params.h"

namespace outrider {

// Whether logits depend on which tokens the sequence already holds, so that its tokens must be counted.
bool NeedsTokenCounts(const SamplingParams& params);

// End and stop ids: what may not be chosen while the output is shorter than min_tokens.
std::vector<TokenId> MaskedIds(const SamplingParams& params);

// One span that samples, as resolved. Everything pointed to outlives the span's verification.
struct SampledSpan {
  SequenceId sequence;
  const SamplingParams* params = nullptr;
  absl::Span<const TokenId> masked_ids;          // MaskedIds(*params)
  const kernels::TokenCounts* counts = nullptr;  // of the committed tokens; null without penalties
  int num_prompt_tokens = 0;
  int num_output_tokens = 0;  // committed
  absl::Span<const TokenId> draft;
  int first_logit_row = 0;  // of draft.size() + 1
};

// The span as the kernel wants it; logits are left to Ops::SampleVerify.
kernels::VerifySpan ToVerifySpan(const SampledSpan& span);

}  // namespace outrider
