// What a request may be. Every error is INVALID_ARGUMENT (the request can never work) and names the field, its value
// and what would be right.
//
// In two parts, since a request may come before any group has told its model: CheckInput needs nothing, ResolveRequest
// needs the model's numbers and the prompt's ids.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "router/request.h"

namespace outrider::router {

inline constexpr uint32_t kMaxChoices = 16;
inline constexpr int32_t kMaxLogprobs = 20;
inline constexpr int32_t kMaxLookahead = 32;
// Ends included.
struct ParameterRange {
  double low;
  double high;
};
inline constexpr ParameterRange kTemperatureRange{0, 100};
inline constexpr ParameterRange kTopPRange{1e-6, 1};
inline constexpr ParameterRange kMinPRange{0, 1};
inline constexpr ParameterRange kRepetitionPenaltyRange{0.01, 100};
inline constexpr ParameterRange kPenaltyRange{-100, 100};  // presence and frequency
inline constexpr ParameterRange kLogitBiasRange{-100, 100};
// Higher goes first.
inline constexpr int32_t kPriorityMin = -16;
inline constexpr int32_t kPriorityMax = 16;
// Bounds that the contract leaves open; a target group has the same.
inline constexpr size_t kMaxLogitBias = 1024;
inline constexpr size_t kMaxStopTokenIds = 128;
inline constexpr size_t kMaxMessages = 4096;
inline constexpr size_t kMaxTemplateKwargsBytes = 65536;
inline constexpr size_t kMaxCacheSaltBytes = 1024;
inline constexpr size_t kMaxPredictionBytes = 1 << 20;
// Logprobs of a prompt altogether: its tokens times 1 + num_prompt_logprobs. They wait in memory for the client, so
// this bounds them, at 12 bytes each on the wire.
inline constexpr int64_t kMaxPromptLogprobs = 1 << 17;

// The status of a prompt that the context has no room for carries this code (error_reason.h).
inline constexpr absl::string_view kContextLengthExceeded = "context_length_exceeded";

// The salt as workers know it: 64 bits of its SHA-256, never 0.
uint64_t PrefixSaltOf(absl::string_view cache_salt);

// Everything that can be said without a model: which kind of prompt, UTF-8 (naming the first bad byte's offset), ranges
// of all parameters (NaN and infinities are in none), counts, stop strings.
absl::Status CheckInput(const RequestInput& input);

// Messages alone, as Tokenize takes them too.
absl::Status CheckMessages(absl::Span<const RequestInput::ChatMessage> messages);
// That the options go with each other and with what is given.
absl::Status CheckChatOptions(const RequestInput::ChatOptions& options, bool has_messages);

// INVALID_ARGUMENT naming `field` and the offset of the first byte that is not UTF-8.
absl::Status CheckUtf8(absl::string_view field, absl::string_view value);

// The model's numbers.
struct ModelBounds {
  int vocab_size = 0;
  int max_model_len = 0;  // tokens of prompt and output together
  absl::Span<const TokenId> end_token_ids;
  SamplingDefaults defaults = {};
};

// Tokens of a prompt that has not been made into ids, for the queue's bound: text has about four bytes a token.
int64_t EstimateTokens(const RequestInput& input);

// INVALID_ARGUMENT if `num_prompt_bytes` of text can not fit the context, whatever its ids: a token has at most
// `token_bytes_max`. Spares tokenizing what is refused anyway.
absl::Status CheckPromptBytes(size_t num_prompt_bytes, size_t token_bytes_max, const ModelBounds& model);

// `input` with defaults in place, the model's before ours. max_tokens becomes what the context leaves, at most.
// `drawn_seed` is taken where the request has none. REQUIRES: CheckInput(input).ok().
absl::StatusOr<ResolvedRequest> ResolveRequest(const RequestInput& input, std::vector<TokenId> prompt_token_ids,
                                               const ModelBounds& model, uint64_t drawn_seed);

}  // namespace outrider::router
