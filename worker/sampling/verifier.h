// Verifier: from a step's logits to its span results. Accepts the prefix of each draft that the target would have
// chosen itself, adds the target token, and cuts where the sequence ends. Plain sampling is the span without a draft.
//
// Thread safety: none; one a runner.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/sampling/verify_draft.h"
#include "worker/model/ops.h"
#include "worker/sampling/row_params.h"
#include "worker/step/step_result.h"

namespace outrider {

// Of one span. `verified` has accepted draft tokens, then the target token, unless its status says otherwise:
// `not_finite` is then set and the tokens before it stand.
SpanResult ToSpanResult(const SampledSpan& span, const kernels::VerifiedSpan& verified);

// A token that stands in the sequence already, of a prompt: its logprob is asked for.
struct GivenToken {
  TokenId token = 0;
  int num_logprobs = 0;  // and those of the best so many
  int logit_row = 0;
};
struct GivenTokenResult {
  TokenLogprobs logprobs;
  bool not_finite = false;
};

class Verifier {
 public:
  // `ops` outlives this.
  explicit Verifier(Ops& ops) : ops_(ops) {}

  // results[i] of spans[i] and given_results[i] of given[i], whose logits the forward pass left in `ops`; each has as
  // many as there are of them. Errors: those of Ops::SampleVerify.
  absl::Status Verify(absl::Span<const SampledSpan> spans, absl::Span<const GivenToken> given,
                      std::vector<SpanResult>* results, std::vector<GivenTokenResult>* given_results);

 private:
  Ops& ops_;
  // Kept between steps for their memory.
  std::vector<kernels::VerifySpan> inputs_;
  std::vector<int> first_logit_rows_;
  std::vector<kernels::VerifiedSpan> outputs_;
};

}  // namespace outrider
