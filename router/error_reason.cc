#include "router/error_reason.h"

namespace outrider::router {
namespace {

// Messages about a field begin with its name (request_validation.h).
std::string FieldAtFront(absl::string_view message) {
  static constexpr absl::string_view kFields[] = {"prompt",
                                                  "messages",
                                                  "prompt_token_ids",
                                                  "max_tokens",
                                                  "min_tokens",
                                                  "temperature",
                                                  "top_p",
                                                  "top_k",
                                                  "min_p",
                                                  "repetition_penalty",
                                                  "presence_penalty",
                                                  "frequency_penalty",
                                                  "n",
                                                  "logit_bias",
                                                  "seed",
                                                  "stop",
                                                  "stop_token_ids",
                                                  "num_logprobs",
                                                  "prompt_logprobs",
                                                  "prediction",
                                                  "lookahead",
                                                  "priority",
                                                  "acceptance",
                                                  "cache_salt",
                                                  "chat_template_kwargs",
                                                  "continue_final_message",
                                                  "add_generation_prompt"};
  const size_t end = message.find_first_of(" .[:");
  const absl::string_view word = message.substr(0, end);
  for (const absl::string_view field : kFields) {
    if (word == field) return std::string(field);
  }
  return "";
}

}  // namespace

std::string FieldOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kFieldPayload);
  if (payload.has_value()) return std::string(*payload);
  return absl::IsInvalidArgument(status) ? FieldAtFront(status.message()) : "";
}

}  // namespace outrider::router
