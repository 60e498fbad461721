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

class Verifier {
 public:
  // `ops` outlives this.
  explicit Verifier(Ops& ops) : ops_(ops) {}

  // results[i] of spans[i], whose logits the forward pass left in `ops`. results.size() == spans.size().
  // Errors: those of Ops::SampleVerify.
  absl::Status Verify(absl::Span<const SampledSpan> spans, std::vector<SpanResult>* results);

 private:
  Ops& ops_;
  // Kept between steps for their memory.
  std::vector<kernels::VerifySpan> inputs_;
  std::vector<int> first_logit_rows_;
  std::vector<kernels::VerifiedSpan> outputs_;
};

}  // namespace outrider
