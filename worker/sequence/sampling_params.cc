#include "worker/sequence/sampling_params.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

constexpr int kMaxEndTokenIds = 128;

// OK if low <= value <= high; NaN is not.
absl::Status CheckRange(const char* name, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " = ", value, " is out of range; it takes ", low, " to ", high));
}

absl::Status CheckIds(const char* name, const std::vector<TokenId>& ids, int count_max, int vocab_size) {
  if (static_cast<int>(ids.size()) > count_max) {
    return absl::InvalidArgumentError(absl::StrCat(name, " holds ", ids.size(), " ids; at most ", count_max));
  }
  for (const TokenId id : ids) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " holds ", id, ", which is not a token id; the vocabulary has ", vocab_size));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const SamplingParams& params, int vocab_size) {
  constexpr double kGreatest = 3.0e38;
  for (const absl::Status& status : {
           CheckRange("temperature", params.temperature, 0, 100),
           CheckRange("top_p", params.top_p, 1e-6f, 1),
           CheckRange("top_k", params.top_k, 0, kGreatest),
           CheckRange("min_p", params.min_p, 0, 1),
           CheckRange("repetition_penalty", params.repetition_penalty, 0.01f, 100),
           CheckRange("presence_penalty", params.presence_penalty, -100, 100),
           CheckRange("frequency_penalty", params.frequency_penalty, -100, 100),
           CheckRange("max_tokens", params.max_tokens, 1, kGreatest),
           CheckRange("min_tokens", params.min_tokens, 0, params.max_tokens),
           CheckRange("num_logprobs", params.num_logprobs, -1, kMaxLogprobs),
           CheckRange("num_prompt_logprobs", params.num_prompt_logprobs, -1, kMaxLogprobs),
           CheckIds("end_token_ids", params.end_token_ids, kMaxEndTokenIds, vocab_size),
           CheckIds("stop_token_ids", params.stop_token_ids, kMaxStopTokenIds, vocab_size),
       }) {
    if (!status.ok()) return status;
  }
  if (static_cast<int>(params.logit_bias.size()) > kMaxLogitBias) {
    return absl::InvalidArgumentError(
        absl::StrCat("logit_bias holds ", params.logit_bias.size(), " entries; at most ", kMaxLogitBias));
  }
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias names ", id, ", which is not a token id; the vocabulary has ", vocab_size));
    }
    if (absl::Status status = CheckRange("logit_bias", bias, -100, 100); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace outrider
