#include "router/request_validation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "router/error_reason.h"
#include "text/sha256.h"
#include "text/stop_matcher.h"
#include "text/utf8.h"

namespace outrider::router {
namespace {

absl::Status Invalid(const std::string& message) { return absl::InvalidArgumentError(message); }

// Whole numbers without an exponent.
std::string Plain(double number) {
  return std::abs(number) < 1e15 && number == std::floor(number) ? absl::StrCat(static_cast<int64_t>(number))
                                                                 : absl::StrCat(number);
}

// OK if absent or low <= value <= high, both as T has them; NaN is not.
template <typename T>
absl::Status CheckRange(const char* field, const std::optional<T>& value, double low, double high,
                        const char* remedy = "") {
  if (!value.has_value() || (*value >= static_cast<T>(low) && *value <= static_cast<T>(high))) return absl::OkStatus();
  return Invalid(
      absl::StrCat(field, " = ", *value, " is out of range; it takes ", Plain(low), " to ", Plain(high), remedy));
}

absl::Status CheckRange(const char* field, const std::optional<float>& value, const ParameterRange& range,
                        const char* remedy = "") {
  return CheckRange(field, value, range.low, range.high, remedy);
}

// A role in a message is short and printable, or its length is told instead.
std::string Quoted(absl::string_view value) {
  const bool printable = std::all_of(value.begin(), value.end(), [](char c) { return c >= ' ' && c <= '~'; });
  return value.size() <= 32 && printable ? absl::StrCat("'", value, "'") : absl::StrCat("of ", value.size(), " bytes");
}

absl::Status CheckPromptKind(const RequestInput& input) {
  const int num_kinds =
      (input.prompt.has_value() ? 1 : 0) + (input.messages.empty() ? 0 : 1) + (input.prompt_token_ids.empty() ? 0 : 1);
  if (num_kinds == 0) {
    return Invalid("nothing to go on: give one of prompt, messages and prompt_token_ids, and not an empty one");
  }
  if (num_kinds > 1) {
    return Invalid(absl::StrCat("more than one of prompt, messages and prompt_token_ids is given (prompt: ",
                                input.prompt.has_value() ? "yes" : "no", ", messages: ", input.messages.size(),
                                ", prompt_token_ids: ", input.prompt_token_ids.size(), "); give exactly one"));
  }
  if (input.prompt.has_value()) {
    if (input.prompt->empty()) return Invalid("prompt is empty; give at least one character, or prompt_token_ids");
    return CheckUtf8("prompt", *input.prompt);
  }
  return CheckMessages(input.messages);
}

absl::Status CheckIds(const char* field, absl::Span<const TokenId> ids, int vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return Invalid(absl::StrCat(field, "[", i, "] = ", ids[i], " is not a token id; the vocabulary has ids 0 to ",
                                  vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckUtf8(absl::string_view field, absl::string_view value) {
  const std::optional<size_t> offset = text::FirstInvalidUtf8(value);
  if (!offset.has_value()) return absl::OkStatus();
  return Invalid(absl::StrCat(field, " is not UTF-8 at byte ", *offset, " (0x",
                              absl::Hex(static_cast<uint8_t>(value[*offset]), absl::kZeroPad2), ") of ", value.size(),
                              "; send text as UTF-8, or prompt_token_ids"));
}

absl::Status CheckMessages(absl::Span<const RequestInput::ChatMessage> messages) {
  if (messages.size() > kMaxMessages) {
    return Invalid(absl::StrCat("messages has ", messages.size(), "; at most ", kMaxMessages, " are allowed"));
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const absl::string_view role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      return Invalid(
          absl::StrCat("messages[", i, "].role ", Quoted(role), " is unknown; it takes system, user or assistant"));
    }
    RETURN_IF_ERROR(CheckUtf8(absl::StrCat("messages[", i, "].content"), messages[i].content));
  }
  return absl::OkStatus();
}

absl::Status CheckChatOptions(const RequestInput::ChatOptions& options, bool has_messages) {
  const auto given = [](const auto& option) { return option.has_value(); };
  if (!has_messages && (given(options.add_generation_prompt) || given(options.continue_final_message) ||
                        given(options.template_kwargs))) {
    return Invalid(
        "add_generation_prompt, continue_final_message and chat_template_kwargs are about messages; leave them out, or "
        "give messages");
  }
  if (options.continue_final_message.value_or(false) && options.add_generation_prompt.value_or(false)) {
    return Invalid(
        "continue_final_message and add_generation_prompt are both true; the prompt ends within the last message or "
        "after it");
  }
  if (options.template_kwargs.has_value()) {
    if (options.template_kwargs->size() > kMaxTemplateKwargsBytes) {
      return Invalid(absl::StrCat("chat_template_kwargs is ", options.template_kwargs->size(), " bytes; at most ",
                                  kMaxTemplateKwargsBytes, " are allowed"));
    }
    RETURN_IF_ERROR(CheckUtf8("chat_template_kwargs", *options.template_kwargs));
  }
  return absl::OkStatus();
}

uint64_t PrefixSaltOf(absl::string_view cache_salt) {
  text::Sha256 hash;
  hash.Update(cache_salt);
  uint64_t salt = 0;
  const std::array<uint8_t, 32> digest = hash.Finish();
  for (int i = 0; i < 8; ++i) salt = salt << 8 | digest[i];
  return salt == 0 ? 1 : salt;
}

absl::Status CheckInput(const RequestInput& input) {
  RETURN_IF_ERROR(CheckPromptKind(input));
  RETURN_IF_ERROR(CheckChatOptions(input.chat, !input.messages.empty()));
  if (input.add_special_tokens.has_value() && !input.prompt.has_value()) {
    return Invalid("add_special_tokens is about prompt; leave it out, or give the prompt as text");
  }
  if (input.cache_salt.has_value() && (input.cache_salt->empty() || input.cache_salt->size() > kMaxCacheSaltBytes)) {
    return Invalid(absl::StrCat("cache_salt is ", input.cache_salt->size(), " bytes; it takes 1 to ",
                                kMaxCacheSaltBytes, "; leave it out for none"));
  }
  constexpr double kUint32Max = std::numeric_limits<uint32_t>::max();
  RETURN_IF_ERROR(
      CheckRange("max_tokens", input.max_tokens, 1, kUint32Max, "; leave it out for what the context leaves"));
  RETURN_IF_ERROR(CheckRange("temperature", input.temperature, kTemperatureRange, "; 0 is greedy"));
  RETURN_IF_ERROR(CheckRange("top_p", input.top_p, kTopPRange, "; 1 is off"));
  RETURN_IF_ERROR(CheckRange("top_k", input.top_k, 0, std::numeric_limits<int32_t>::max(), "; 0 is off"));
  RETURN_IF_ERROR(CheckRange("min_p", input.min_p, kMinPRange, "; 0 is off"));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", input.repetition_penalty, kRepetitionPenaltyRange, "; 1 is off"));
  RETURN_IF_ERROR(CheckRange("presence_penalty", input.presence_penalty, kPenaltyRange, "; 0 is off"));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", input.frequency_penalty, kPenaltyRange, "; 0 is off"));
  RETURN_IF_ERROR(CheckRange("n", input.num_choices, 1, kMaxChoices));
  RETURN_IF_ERROR(CheckRange("num_logprobs", input.num_logprobs, -1, kMaxLogprobs, "; -1 is none"));
  RETURN_IF_ERROR(CheckRange("prompt_logprobs", input.num_prompt_logprobs, 0, kMaxLogprobs, "; leave it out for none"));
  if (input.prediction.has_value()) {
    if (input.prediction->size() > kMaxPredictionBytes) {
      return Invalid(absl::StrCat("prediction is ", input.prediction->size(), " bytes; at most ", kMaxPredictionBytes,
                                  " are allowed"));
    }
    RETURN_IF_ERROR(CheckUtf8("prediction", *input.prediction));
  }
  RETURN_IF_ERROR(CheckRange("lookahead", input.lookahead, -1, kMaxLookahead, "; -1 is auto"));
  RETURN_IF_ERROR(CheckRange("priority", std::optional<int32_t>(input.priority), kPriorityMin, kPriorityMax));
  RETURN_IF_ERROR(CheckRange("acceptance", input.acceptance, 0, 1, "; 0 is coupled, 1 is rejection"));
  if (input.min_tokens.has_value() && input.max_tokens.has_value() && *input.min_tokens > *input.max_tokens) {
    return Invalid(absl::StrCat("min_tokens = ", *input.min_tokens, " is above max_tokens = ", *input.max_tokens,
                                "; lower the one or raise the other"));
  }
  if (input.logit_bias.size() > kMaxLogitBias) {
    return Invalid(
        absl::StrCat("logit_bias has ", input.logit_bias.size(), " entries; at most ", kMaxLogitBias, " are allowed"));
  }
  absl::flat_hash_set<TokenId> biased;
  for (size_t i = 0; i < input.logit_bias.size(); ++i) {
    const auto& [token_id, bias] = input.logit_bias[i];
    const std::string field = absl::StrCat("logit_bias[", i, "].bias");
    RETURN_IF_ERROR(CheckRange(field.c_str(), std::optional<float>(bias), kLogitBiasRange));
    if (!biased.insert(token_id).second) {
      return Invalid(absl::StrCat("logit_bias[", i, "].token_id = ", token_id, " is given twice; give each id once"));
    }
  }
  if (input.stop_token_ids.size() > kMaxStopTokenIds) {
    return Invalid(absl::StrCat("stop_token_ids has ", input.stop_token_ids.size(), " ids; at most ", kMaxStopTokenIds,
                                " are allowed"));
  }
  // Counted before anything is copied: a stop string may be of megabytes.
  if (input.stop.size() > text::kMaxStopStrings) {
    return Invalid(
        absl::StrCat("stop has ", input.stop.size(), " strings; at most ", text::kMaxStopStrings, " are allowed"));
  }
  for (size_t i = 0; i < input.stop.size(); ++i) {
    if (input.stop[i].empty()) return Invalid(absl::StrCat("stop[", i, "] is empty; leave it out"));
    if (input.stop[i].size() > text::kMaxStopStringBytes) {
      return Invalid(absl::StrCat("stop[", i, "] is ", input.stop[i].size(), " bytes; at most ",
                                  text::kMaxStopStringBytes, " are allowed"));
    }
    RETURN_IF_ERROR(CheckUtf8(absl::StrCat("stop[", i, "]"), input.stop[i]));
  }
  return absl::OkStatus();
}

int64_t EstimateTokens(const RequestInput& input) {
  constexpr int64_t kBytesPerToken = 4;
  int64_t num_bytes = input.prompt.has_value() ? static_cast<int64_t>(input.prompt->size()) : 0;
  for (const RequestInput::ChatMessage& message : input.messages) num_bytes += message.content.size();
  const int64_t num_prompt_tokens =
      static_cast<int64_t>(input.prompt_token_ids.size()) + (num_bytes + kBytesPerToken - 1) / kBytesPerToken;
  return num_prompt_tokens + int64_t{input.max_tokens.value_or(0)} * input.num_choices.value_or(1);
}

absl::Status CheckPromptBytes(size_t num_prompt_bytes, size_t token_bytes_max, const ModelBounds& model) {
  const size_t num_tokens_min = (num_prompt_bytes + token_bytes_max - 1) / std::max<size_t>(1, token_bytes_max);
  if (num_tokens_min < static_cast<size_t>(model.max_model_len)) return absl::OkStatus();
  return WithReason(Invalid(absl::StrCat("the prompt of ", num_prompt_bytes, " bytes has at least ", num_tokens_min,
                                         " tokens, but the model's context has ", model.max_model_len,
                                         " for prompt and output; shorten the prompt")),
                    kContextLengthExceeded);
}

absl::StatusOr<ResolvedRequest> ResolveRequest(const RequestInput& input, std::vector<TokenId> prompt_token_ids,
                                               const ModelBounds& model, uint64_t drawn_seed) {
  if (prompt_token_ids.empty()) return Invalid("the prompt has no tokens; give at least one");
  RETURN_IF_ERROR(CheckIds("prompt_token_ids", prompt_token_ids, model.vocab_size));
  const int64_t num_prompt_tokens = static_cast<int64_t>(prompt_token_ids.size());
  const int64_t num_left = model.max_model_len - num_prompt_tokens;
  if (num_left <= 0) {
    return WithReason(
        Invalid(absl::StrCat("the prompt has ", num_prompt_tokens, " tokens, but the model's context has ",
                             model.max_model_len, " for prompt and output; shorten the prompt")),
        kContextLengthExceeded);
  }
  if (input.num_prompt_logprobs.has_value()) {
    const int64_t num_logprobs = num_prompt_tokens * (1 + int64_t{*input.num_prompt_logprobs});
    if (num_logprobs > kMaxPromptLogprobs) {
      return Invalid(absl::StrCat("prompt_logprobs = ", *input.num_prompt_logprobs, " for a prompt of ",
                                  num_prompt_tokens, " tokens makes ", num_logprobs, " logprobs; at most ",
                                  kMaxPromptLogprobs, " are given: ask for fewer a token, or shorten the prompt"));
    }
  }
  RETURN_IF_ERROR(CheckIds("stop_token_ids", input.stop_token_ids, model.vocab_size));
  for (size_t i = 0; i < input.logit_bias.size(); ++i) {
    const TokenId id = input.logit_bias[i].first;
    if (id < 0 || id >= model.vocab_size) {
      return Invalid(absl::StrCat("logit_bias[", i, "].token_id = ", id,
                                  " is not a token id; the vocabulary has ids 0 to ", model.vocab_size - 1));
    }
  }

  ResolvedRequest request;
  ResolvedSampling& sampling = request.sampling;
  sampling.max_tokens = static_cast<uint32_t>(
      std::min<int64_t>(num_left, input.max_tokens.value_or(std::numeric_limits<uint32_t>::max())));
  sampling.min_tokens = input.min_tokens.value_or(0);
  if (sampling.min_tokens > sampling.max_tokens) {
    return Invalid(absl::StrCat("min_tokens = ", sampling.min_tokens, " is more than the ", sampling.max_tokens,
                                " tokens that the context of ", model.max_model_len, " leaves after the prompt's ",
                                num_prompt_tokens, "; lower it or shorten the prompt"));
  }
  const SamplingDefaults& defaults = model.defaults;
  sampling.temperature = input.temperature.value_or(defaults.temperature.value_or(1));
  sampling.top_p = input.top_p.value_or(defaults.top_p.value_or(1));
  sampling.top_k = input.top_k.value_or(defaults.top_k.value_or(0));
  sampling.min_p = input.min_p.value_or(defaults.min_p.value_or(0));
  sampling.repetition_penalty = input.repetition_penalty.value_or(defaults.repetition_penalty.value_or(1));
  sampling.presence_penalty = input.presence_penalty.value_or(0);
  sampling.frequency_penalty = input.frequency_penalty.value_or(0);
  sampling.logit_bias = input.logit_bias;
  if (!input.ignore_eos.value_or(false)) {
    sampling.end_token_ids.assign(model.end_token_ids.begin(), model.end_token_ids.end());
  }
  sampling.stop_token_ids.assign(input.stop_token_ids.begin(), input.stop_token_ids.end());
  sampling.seed = input.seed.value_or(drawn_seed);
  sampling.num_logprobs = input.num_logprobs.value_or(-1);
  sampling.acceptance = input.acceptance.value_or(0);
  if (input.num_prompt_logprobs.has_value()) {
    sampling.num_prompt_logprobs = static_cast<int32_t>(*input.num_prompt_logprobs);
  }
  request.prompt_token_ids = std::move(prompt_token_ids);
  for (const absl::string_view stop : input.stop) request.stop.emplace_back(stop);
  request.num_choices = input.num_choices.value_or(1);
  request.draft = input.draft.value_or(true);
  request.lookahead = input.lookahead.value_or(-1);
  request.priority = input.priority;
  request.return_token_origins = input.return_token_origins;
  request.skip_special_tokens = input.skip_special_tokens.value_or(true);
  request.include_stop_in_text = input.include_stop_in_text.value_or(false);
  request.prefix_salt = input.cache_salt.has_value() ? PrefixSaltOf(*input.cache_salt) : 0;
  return request;
}

}  // namespace outrider::router
