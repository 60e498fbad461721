// A request inside the router: as the client gave it, and resolved.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/ids.h"

namespace outrider::router {

// GenerateRequest with presence kept. Views into the message it was made from, which outlives this.
struct RequestInput {
  struct ChatMessage {
    absl::string_view role;
    absl::string_view content;
  };
  // What the chat template is told beside the messages.
  struct ChatOptions {
    std::optional<bool> add_generation_prompt;
    std::optional<bool> continue_final_message;
    std::optional<absl::string_view> template_kwargs;  // a JSON object
  };
  std::optional<absl::string_view> prompt;
  std::vector<ChatMessage> messages;
  ChatOptions chat;
  absl::Span<const TokenId> prompt_token_ids;

  std::optional<uint32_t> max_tokens;
  std::optional<uint32_t> min_tokens;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<uint32_t> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::optional<uint64_t> seed;
  std::vector<absl::string_view> stop;
  absl::Span<const TokenId> stop_token_ids;
  std::optional<bool> ignore_eos;
  std::optional<uint32_t> num_choices;
  std::optional<int32_t> num_logprobs;
  std::optional<bool> draft;
  std::optional<int32_t> lookahead;
  std::optional<int32_t> acceptance;  // the enum's number, known or not
  std::optional<bool> skip_special_tokens;
  std::optional<bool> include_stop_in_text;
  std::optional<bool> add_special_tokens;
  std::optional<absl::string_view> cache_salt;
  std::optional<uint32_t> num_prompt_logprobs;
  std::optional<absl::string_view> prediction;
  bool return_token_origins = false;
  int32_t priority = 0;
};

// What the model recommends where a request leaves it open.
struct SamplingDefaults {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<uint32_t> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
};

// Every sampling parameter resolved, as common.proto's SamplingParams.
struct ResolvedSampling {
  float temperature = 1;
  float top_p = 1;
  uint32_t top_k = 0;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::pair<TokenId, float>> logit_bias;
  uint32_t max_tokens = 0;
  uint32_t min_tokens = 0;
  std::vector<TokenId> end_token_ids;
  std::vector<TokenId> stop_token_ids;
  uint64_t seed = 0;
  int32_t num_logprobs = -1;
  int32_t acceptance = 0;
  int32_t num_prompt_logprobs = -1;  // -1: none
};

// A request that can be sent to a group.
struct ResolvedRequest {
  std::vector<TokenId> prompt_token_ids;
  ResolvedSampling sampling;
  std::vector<TokenId> prediction_token_ids;  // what the output may be; of no consequence to it
  std::vector<std::string> stop;
  uint32_t num_choices = 1;
  bool draft = true;
  int32_t lookahead = -1;
  bool skip_special_tokens = true;
  bool include_stop_in_text = false;
  uint64_t prefix_salt = 0;  // 0: none
  bool return_token_origins = false;
  int32_t priority = 0;
};

}  // namespace outrider::router
