// The bodies of POST /v1/chat/completions and POST /v1/completions, as requests of the router: OpenAI's fields, vLLM's
// extras and ours (lookahead, draft, acceptance).
//
// Errors: INVALID_ARGUMENT with the field (error_reason.h) and, as reason, OpenAI's code. Here is checked what is about
// the JSON; ranges of sampling parameters are the router's own business (request_validation.h).
//
// Differences from the same fields over gRPC: `priority` is vLLM's, lower goes first; max_tokens of a completion is 16
// if it is left out, as OpenAI and vLLM have it.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/inference.pb.h"
#include "router/http/json_reader.h"

namespace outrider::router {

// Prompts of one request to /v1/completions; each is a call of its own.
inline constexpr size_t kMaxPrompts = 128;

struct GenerationRequest {
  bool chat = false;
  std::string model;                       // as asked for; empty: the one that is served
  std::vector<v1::GenerateRequest> calls;  // one a prompt, at least one; all have the same number of choices
  bool stream = false;
  bool include_usage = false;     // of a stream: a chunk with the usage at the end
  bool continuous_usage = false;  // and with every chunk
  bool echo = false;              // a completion begins with its prompt
  bool return_token_ids = false;
  int num_logprobs = -1;              // -1: none are shown; else so many alternatives a token
  bool show_prompt_logprobs = false;  // in vLLM's field of that name
  bool show_prediction = false;       // what became of it, in the usage
  std::string request_id;
  std::vector<std::string> unknown_fields;  // were ignored
};

absl::StatusOr<GenerationRequest> ParseChatRequest(FieldReader& fields);
absl::StatusOr<GenerationRequest> ParseCompletionRequest(FieldReader& fields);

// What a chat prompt is made of, into `request`: messages, add_generation_prompt, continue_final_message,
// chat_template_kwargs. Also of /tokenize and /apply-template.
void ReadChat(FieldReader& fields, v1::GenerateRequest* request);

}  // namespace outrider::router
