#include "worker/sequence/stop_condition.h"

#include <algorithm>

namespace outrider {

std::optional<FinishReason> StopsAt(TokenId token, int num_output_tokens, const SamplingParams& params) {
  const auto is_in = [token](const std::vector<TokenId>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  // The output was num_output_tokens - 1 long when the token was chosen.
  if (num_output_tokens > params.min_tokens) {
    if (is_in(params.end_token_ids)) return FinishReason::kEndToken;
    if (is_in(params.stop_token_ids)) return FinishReason::kStopToken;
  }
  if (num_output_tokens >= params.max_tokens) return FinishReason::kLength;
  return std::nullopt;
}

}  // namespace outrider
