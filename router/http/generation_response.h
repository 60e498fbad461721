// Answers of /v1/chat/completions and /v1/completions, whole and as the data of server-sent events, in OpenAI's shapes
// with vLLM's extras: stop_reason, token ids where they are asked for, metrics.speculative_decoding.
//
// Thread safety: none. Pure.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/ids.h"
#include "proto/inference.pb.h"
#include "text/tokenizer.h"

namespace outrider::router {

// What all parts of an answer say alike.
struct AnswerIdentity {
  bool chat = false;
  std::string id;       // chatcmpl-... or cmpl-...
  int64_t created = 0;  // Unix s
  std::string model;
  bool show_logprobs = false;
  bool show_token_ids = false;
  bool show_origins = false;
  bool show_prompt_logprobs = false;
  // Of a stream: each chunk has "usage", null or so far.
  bool usage_in_chunks = false;
};

struct AnswerUsage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
  // Draft tokens that the request's prediction gave.
  int64_t prediction_tokens = 0;
  int64_t accepted_prediction_tokens = 0;
  // Of one choice alone: what its speculation did.
  bool show_speculation = false;
  v1::Usage speculation;
};

// Of a prompt's tokens after the first.
struct PromptLogprobs {
  std::vector<TokenId> token_ids;  // the whole prompt
  std::vector<v1::TokenLogprobs> logprobs;
  bool complete() const { return logprobs.size() + 1 >= token_ids.size(); }
};

// Tokens of one choice: all of it, or what is new.
struct ChoicePart {
  uint32_t index = 0;
  std::string text;
  std::vector<TokenId> token_ids;
  std::vector<v1::TokenLogprobs> logprobs;  // one a token id, if they are shown
  std::vector<v1::TokenOrigin> origins;     // likewise
  int64_t first_text_offset = 0;            // characters of the choice before these tokens
  // Nothing yet: UNSPECIFIED.
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  std::string stop_string;
  TokenId last_token_id = -1;
  std::vector<TokenId> prompt_token_ids;  // shown with token ids, where they are not empty: of a chat with the answer
  // Shown as prompt_logprobs once they are complete (of a chat with the answer), and with `echoes_logprobs` in front of
  // the tokens' own. Null: none.
  std::shared_ptr<const PromptLogprobs> prompt_logprobs;
  bool echoes_logprobs = false;
  int num_echoed_top = 0;  // alternatives shown of each echoed token
};

// Characters (code points) that the tokens' own texts have: what text_offset counts.
int64_t NumCharacters(const text::Tokenizer* tokenizer, const std::vector<TokenId>& token_ids);

// The whole answer. `tokenizer` may be null: then logprobs have ids for tokens.
std::string RenderAnswer(const AnswerIdentity& identity, const text::Tokenizer* tokenizer,
                         const std::vector<ChoicePart>& choices, const AnswerUsage& usage);

// The data of one event. `usage` may be null.
std::string RenderRoleChunk(const AnswerIdentity& identity, uint32_t index,
                            const std::vector<TokenId>& prompt_token_ids, const AnswerUsage* usage);
std::string RenderChunkOf(const AnswerIdentity& identity, const text::Tokenizer* tokenizer, const ChoicePart& part,
                          const AnswerUsage* usage);
// The last one, with include_usage.
std::string RenderUsageChunk(const AnswerIdentity& identity, const AnswerUsage& usage);

// `data` (one line) as a server-sent event.
std::string SseEvent(absl::string_view data);
inline constexpr absl::string_view kSseDone = "data: [DONE]\n\n";
inline constexpr absl::string_view kSseComment = ": waiting\n\n";

}  // namespace outrider::router
