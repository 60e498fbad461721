#include "worker/sampling/verifier.h"

#include <algorithm>

#include "base/status_macros.h"
#include "worker/sequence/stop_condition.h"

namespace outrider {

SpanResult ToSpanResult(const SampledSpan& span, const kernels::VerifiedSpan& verified) {
  const SamplingParams& params = *span.params;
  SpanResult result;
  result.sequence = span.sequence;
  result.num_draft_tokens = static_cast<int>(span.draft.size());
  result.not_finite = verified.status != kernels::RowStatus::kOk;
  result.tokens.reserve(verified.tokens.size());
  for (const kernels::SampledToken& token : verified.tokens) {
    if (token.status != kernels::RowStatus::kOk) break;
    result.tokens.push_back(token.token_id);
    if (params.num_logprobs >= 0) {
      TokenLogprobs logprobs{.logprob = token.logprob};
      for (int i = 0; i < token.num_top; ++i) logprobs.top.emplace_back(token.top[i].token_id, token.top[i].logprob);
      result.logprobs.push_back(std::move(logprobs));
    }
    result.finish = StopsAt(token.token_id, span.num_output_tokens + static_cast<int>(result.tokens.size()), params);
    if (result.finish.has_value()) {
      result.not_finite = false;  // what follows the end does not count
      break;
    }
  }
  result.num_accepted = std::min(verified.num_accepted, static_cast<int>(result.tokens.size()));
  return result;
}

absl::Status Verifier::Verify(absl::Span<const SampledSpan> spans, std::vector<SpanResult>* results) {
  results->clear();
  if (spans.empty()) return absl::OkStatus();
  inputs_.clear();
  first_logit_rows_.clear();
  for (const SampledSpan& span : spans) {
    inputs_.push_back(ToVerifySpan(span));
    first_logit_rows_.push_back(span.first_logit_row);
  }
  outputs_.resize(spans.size());
  RETURN_IF_ERROR(ops_.SampleVerify(inputs_, first_logit_rows_, outputs_));
  results->reserve(spans.size());
  for (size_t i = 0; i < spans.size(); ++i) results->push_back(ToSpanResult(spans[i], outputs_[i]));
  return absl::OkStatus();
}

}  // namespace outrider
