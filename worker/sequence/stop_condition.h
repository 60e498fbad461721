// When a sequence ends by its own tokens. One rule for ranks (which cut an accepted run there) and scheduler.
#pragma once

#include <optional>

#include "base/ids.h"
#include "worker/sequence/sampling_params.h"
#include "worker/step/step_result.h"  // FinishReason

namespace outrider {

// Whether `token`, as output token number `num_output_tokens` (from 1, itself included), ends the sequence.
// End and stop ids count only from min_tokens on (they are masked before; a draft can not bring them in).
std::optional<FinishReason> StopsAt(TokenId token, int num_output_tokens, const SamplingParams& params);

}  // namespace outrider
