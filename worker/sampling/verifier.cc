#include "worker/sampling/verifier.h"

#include <algorithm>

#include "base/status_macros.h"
#include "worker/sequence/stop_condition.h"

namespace outrider {
namespace {

TokenLogprobs ToLogprobs(const kernels::SampledToken& token) {
  TokenLogprobs logprobs{.logprob = token.logprob, .rank = token.rank};
  for (int i = 0; i < token.num_top; ++i) logprobs.top.emplace_back(token.top[i].token_id, token.top[i].logprob);
  return logprobs;
}

}  // namespace

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
    if (params.num_logprobs >= 0) result.logprobs.push_back(ToLogprobs(token));
    result.finish = StopsAt(token.token_id, span.num_output_tokens + static_cast<int>(result.tokens.size()), params);
    if (result.finish.has_value()) {
      result.not_finite = false;  // what follows the end does not count
      break;
    }
  }
  result.num_accepted = std::min(verified.num_accepted, static_cast<int>(result.tokens.size()));
  return result;
}

absl::Status Verifier::Verify(absl::Span<const SampledSpan> spans, absl::Span<const GivenToken> given,
                              std::vector<SpanResult>* results, std::vector<GivenTokenResult>* given_results) {
  results->clear();
  given_results->clear();
  if (spans.empty() && given.empty()) return absl::OkStatus();
  inputs_.clear();
  first_logit_rows_.clear();
  for (const SampledSpan& span : spans) {
    inputs_.push_back(ToVerifySpan(span));
    first_logit_rows_.push_back(span.first_logit_row);
  }
  for (const GivenToken& token : given) {
    inputs_.push_back({.row = {.num_logprobs = token.num_logprobs, .given_token = token.token}});
    first_logit_rows_.push_back(token.logit_row);
  }
  outputs_.resize(inputs_.size());
  RETURN_IF_ERROR(ops_.SampleVerify(inputs_, first_logit_rows_, outputs_));
  results->reserve(spans.size());
  for (size_t i = 0; i < spans.size(); ++i) results->push_back(ToSpanResult(spans[i], outputs_[i]));
  for (size_t i = 0; i < given.size(); ++i) {
    const kernels::VerifiedSpan& rated = outputs_[spans.size() + i];
    GivenTokenResult& result = given_results->emplace_back();
    result.not_finite = rated.tokens.empty();
    if (!result.not_finite) result.logprobs = ToLogprobs(rated.tokens[0]);
  }
  return absl::OkStatus();
}

}  // namespace outrider
