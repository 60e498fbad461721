#include "router/http/generation_request.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "router/error_reason.h"
#include "router/request_validation.h"

namespace outrider::router {
namespace {

constexpr int64_t kUint32Max = std::numeric_limits<uint32_t>::max();
constexpr uint32_t kCompletionMaxTokens = 16;
constexpr char kOnlyText[] = "only text is served";
constexpr char kNoGrammar[] =
    "answers can not be held to a format, a grammar or tools yet; ask for it in the prompt, and leave the field out";

// One message's content: a string, or parts of type text, which are joined by line ends as vLLM does it.
std::string ReadContent(FieldReader& fields, const std::string& at, const Json& message) {
  const auto it = message.find("content");
  if (it == message.end() || it->is_null()) {
    if (message.value("role", Json()) != "assistant") {
      fields.Fail("messages", absl::StrCat(": ", at, ".content is missing; it takes a string"),
                  "missing_required_parameter");
    }
    return "";
  }
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) {
    fields.Fail("messages",
                absl::StrCat(": ", at, ".content is ", KindOf(*it), "; it takes a string or an array of parts"),
                "invalid_type");
    return "";
  }
  std::string content;
  for (size_t i = 0; i < it->size(); ++i) {
    const Json& part = (*it)[i];
    const std::string part_at = absl::StrCat(at, ".content[", i, "]");
    if (!part.is_object() || !part.contains("type") || !part["type"].is_string()) {
      fields.Fail("messages", absl::StrCat(": ", part_at, " is no object with a type"), "invalid_type");
      return "";
    }
    if (const std::string type = part["type"].get<std::string>(); type != "text") {
      fields.Fail("messages",
                  absl::StrCat(": ", part_at, ".type is '", type.substr(0, 32), "'; it takes text: ", kOnlyText),
                  "unsupported_parameter");
      return "";
    }
    if (!part.contains("text") || !part["text"].is_string()) {
      fields.Fail("messages", absl::StrCat(": ", part_at, ".text is missing; it takes a string"), "invalid_type");
      return "";
    }
    if (i > 0) content += "\n";
    content += part["text"].get_ref<const std::string&>();
  }
  return content;
}

void ReadMessage(FieldReader& fields, size_t index, const Json& message, v1::ChatMessage* out) {
  const std::string at = absl::StrCat("messages[", index, "]");
  if (!message.is_object()) {
    fields.Fail("messages", absl::StrCat(": ", at, " is ", KindOf(message), "; it takes an object"), "invalid_type");
    return;
  }
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string()) {
    fields.Fail("messages", absl::StrCat(": ", at, ".role is missing; it takes system, user or assistant"),
                "missing_required_parameter");
    return;
  }
  const std::string name = role->get<std::string>();
  if (name == "tool" || name == "function" || (message.contains("tool_calls") && !message["tool_calls"].empty())) {
    fields.Fail("messages", absl::StrCat(": ", at, " is about tools, which are not offered yet"),
                "unsupported_parameter");
    return;
  }
  out->set_role(name == "developer" ? "system" : name);  // its name of today
  out->set_content(ReadContent(fields, at, message));
}

// {"type": "content", "content": text or parts of type text}
void ReadPrediction(FieldReader& fields, GenerationRequest* parsed, v1::GenerateRequest* request) {
  const Json* const prediction = fields.Object("prediction");
  if (prediction == nullptr) return;
  if (prediction->value("type", Json()) != "content") {
    fields.Fail("prediction", "has no known type; it takes {\"type\": \"content\", \"content\": ...}");
    return;
  }
  const auto content = prediction->find("content");
  if (content == prediction->end()) {
    fields.Fail("prediction", "has no content; it takes a string or an array of parts of type text");
    return;
  }
  std::string text;
  if (content->is_string()) {
    text = content->get<std::string>();
  } else if (content->is_array()) {
    for (const Json& part : *content) {
      if (!part.is_object() || part.value("type", Json()) != "text" || !part.contains("text") ||
          !part["text"].is_string()) {
        fields.Fail("prediction", "has a part of its content that is no text", "invalid_type");
        return;
      }
      text += part["text"].get_ref<const std::string&>();
    }
  } else {
    fields.Fail("prediction", absl::StrCat("has as content ", KindOf(*content), "; it takes a string or parts"),
                "invalid_type");
    return;
  }
  request->set_prediction(std::move(text));
  parsed->show_prediction = true;
}

// The model, the sampling and the stream: all but the prompt.
void ReadCommon(FieldReader& fields, GenerationRequest* parsed, v1::GenerateRequest* request) {
  parsed->model = fields.String("model").value_or("");
  parsed->request_id = fields.String("request_id").value_or("");
  parsed->stream = fields.Bool("stream").value_or(false);
  if (const Json* const options = fields.Object("stream_options"); options != nullptr) {
    FieldReader reader(*options, "stream_options.");
    parsed->include_usage = reader.Bool("include_usage").value_or(false);
    parsed->continuous_usage = reader.Bool("continuous_usage_stats").value_or(false) && parsed->include_usage;
    fields.Absorb(reader);
    if (!parsed->stream) fields.Fail("stream_options", "is about streams; leave it out, or set stream to true");
  }
  parsed->return_token_ids = fields.Bool("return_token_ids").value_or(false);
  if (fields.Bool("return_token_origins").value_or(false)) {
    request->set_return_token_origins(true);
    if (!parsed->stream) fields.Fail("return_token_origins", "is about streams; leave it out, or set stream to true");
  }

  const auto number = [&](const char* name, const ParameterRange& range, auto set) {
    const auto value = fields.Number(name, range.low, range.high);
    if (value.has_value()) (request->*set)(static_cast<float>(*value));
  };
  number("temperature", kTemperatureRange, &v1::GenerateRequest::set_temperature);
  number("top_p", kTopPRange, &v1::GenerateRequest::set_top_p);
  number("min_p", kMinPRange, &v1::GenerateRequest::set_min_p);
  number("repetition_penalty", kRepetitionPenaltyRange, &v1::GenerateRequest::set_repetition_penalty);
  number("presence_penalty", kPenaltyRange, &v1::GenerateRequest::set_presence_penalty);
  number("frequency_penalty", kPenaltyRange, &v1::GenerateRequest::set_frequency_penalty);
  // -1 is vLLM's other way to say that it is off.
  if (const auto top_k = fields.Integer("top_k", -1, std::numeric_limits<int32_t>::max()); top_k.has_value()) {
    request->set_top_k(*top_k < 0 ? 0 : static_cast<uint32_t>(*top_k));
  }
  if (const auto min_tokens = fields.Integer("min_tokens", 0, kUint32Max); min_tokens.has_value()) {
    request->set_min_tokens(static_cast<uint32_t>(*min_tokens));
  }
  if (const auto n = fields.Integer("n", 1, kMaxChoices); n.has_value()) request->set_n(static_cast<uint32_t>(*n));
  if (const auto best_of = fields.Integer("best_of"); best_of.has_value() && *best_of != std::max(1u, request->n())) {
    fields.Fail("best_of", absl::StrCat("= ", *best_of, " is not n; choosing among more than is given is not offered"),
                "unsupported_parameter");
  }
  if (const Json* const seed = fields.Any("seed"); seed != nullptr) {
    if (seed->is_number_unsigned()) {
      request->set_seed(seed->get<uint64_t>());
    } else if (const auto value = fields.Integer("seed"); value.has_value()) {
      request->set_seed(static_cast<uint64_t>(*value));
    }
  }
  for (std::string& stop : fields.Strings("stop")) request->add_stop(std::move(stop));
  for (const int32_t id : fields.Ids("stop_token_ids")) request->add_stop_token_ids(id);
  if (const Json* const bias = fields.Object("logit_bias"); bias != nullptr) {
    for (const auto& [key, value] : bias->items()) {
      int32_t id;
      if (!absl::SimpleAtoi(key, &id) || !value.is_number()) {
        fields.Fail("logit_bias", "takes numbers by token id, such as {\"42\": -100}", "invalid_type");
        break;
      }
      const double number = value.get<double>();
      if (number < kLogitBiasRange.low || number > kLogitBiasRange.high) {
        fields.Fail("logit_bias", absl::StrCat("of ", key, " = ", value.dump(), " is out of range; it takes ",
                                               kLogitBiasRange.low, " to ", kLogitBiasRange.high));
        break;
      }
      v1::LogitBias& entry = *request->add_logit_bias();
      entry.set_token_id(id);
      entry.set_bias(static_cast<float>(number));
    }
  }
  const auto flag = [&](const char* name, auto set) {
    if (const auto value = fields.Bool(name); value.has_value()) (request->*set)(*value);
  };
  flag("ignore_eos", &v1::GenerateRequest::set_ignore_eos);
  flag("skip_special_tokens", &v1::GenerateRequest::set_skip_special_tokens);
  flag("include_stop_str_in_output", &v1::GenerateRequest::set_include_stop_in_text);
  flag("draft", &v1::GenerateRequest::set_draft);
  if (const auto priority = fields.Integer("priority", kPriorityMin, kPriorityMax); priority.has_value()) {
    request->set_priority(static_cast<int32_t>(-*priority));
  }
  if (const auto salt = fields.String("cache_salt"); salt.has_value()) request->set_cache_salt(*salt);
  if (const Json* const lookahead = fields.Any("lookahead"); lookahead != nullptr && *lookahead != "auto") {
    if (const auto value = fields.Integer("lookahead", -1, kMaxLookahead); value.has_value()) {
      request->set_lookahead(static_cast<int32_t>(*value));
    }
  }
  if (const auto acceptance = fields.String("acceptance"); acceptance.has_value()) {
    if (*acceptance == "coupled") {
      request->set_acceptance(v1::ACCEPTANCE_COUPLED);
    } else if (*acceptance == "rejection") {
      request->set_acceptance(v1::ACCEPTANCE_REJECTION);
    } else {
      fields.Fail("acceptance", "takes coupled or rejection");
    }
  }

  if (const auto count = fields.Integer("prompt_logprobs", 0, kMaxLogprobs); count.has_value()) {
    parsed->show_prompt_logprobs = true;
    request->set_prompt_logprobs(static_cast<uint32_t>(*count));
  }
  ReadPrediction(fields, parsed, request);

  // What would change the answer, and can not be done: told, never left out in silence.
  for (const char* name : {"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
                           "guided_decoding_backend", "grammar", "json_schema"}) {
    fields.NotOffered(name, kNoGrammar);
  }
  if (const Json* const format = fields.Object("response_format"); format != nullptr) {
    if (format->value("type", Json()) != "text")
      fields.Fail("response_format", absl::StrCat("is not offered; ", kNoGrammar), "unsupported_parameter");
  }
  fields.NotOffered("truncate_prompt_tokens", "shorten the prompt");
  fields.NotOffered("bad_words", "use logit_bias");
  fields.NotOffered("allowed_token_ids", "use logit_bias");
  fields.NotOffered("logits_processors", "use logit_bias");
  fields.NotOffered("use_beam_search", "use n with a temperature");
  fields.NotOffered("length_penalty", "it belongs to beam search", 1.0);
  fields.NotOffered("prompt_embeds", kOnlyText);
  fields.NotOffered("mm_processor_kwargs", kOnlyText);
  fields.NotOffered("return_tokens_as_token_ids", "use return_token_ids");
  // What has no bearing on the answer.
  for (const char* name : {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
                           "spaces_between_special_tokens", "detokenize", "parallel_tool_calls", "reasoning_effort",
                           "verbosity", "include_reasoning"}) {
    fields.Ignore(name);
  }
}

// Of a logprobs count that a client wants of each token.
void SetLogprobs(int64_t num_logprobs, GenerationRequest* parsed, v1::GenerateRequest* request) {
  parsed->num_logprobs = static_cast<int>(num_logprobs);
  request->set_num_logprobs(static_cast<int32_t>(num_logprobs));
}

absl::StatusOr<GenerationRequest> Finished(const FieldReader& fields, GenerationRequest parsed) {
  RETURN_IF_ERROR(fields.status());
  parsed.unknown_fields = fields.UnknownFields();
  return parsed;
}

// The prompts of a completion: a string, ids, or an array of either.
void ReadPrompts(FieldReader& fields, const v1::GenerateRequest& request, GenerationRequest* parsed) {
  const Json* const prompt = fields.Any("prompt");
  if (prompt == nullptr) {
    fields.Fail("prompt", "is missing; it takes a string, token ids, or an array of either",
                "missing_required_parameter");
    return;
  }
  const auto add = [&](const Json& one) {
    v1::GenerateRequest& call = parsed->calls.emplace_back(request);
    if (one.is_string()) {
      call.set_prompt(one.get<std::string>());
      return;
    }
    // Text alone has special tokens.
    call.clear_add_special_tokens();
    const Json wrapped = {{"prompt", one}};
    FieldReader reader(wrapped);
    for (const int32_t id : reader.Ids("prompt")) call.add_prompt_token_ids(id);
    fields.Fail(reader.status());
    if (one.empty()) fields.Fail("prompt", "has an empty array; give at least one token id or string");
  };
  const bool is_list = prompt->is_array() && !prompt->empty() && !prompt->front().is_number();
  if (!prompt->is_string() && !prompt->is_array()) {
    fields.Fail("prompt", absl::StrCat("is ", KindOf(*prompt), "; it takes a string, token ids, or an array of either"),
                "invalid_type");
  } else if (!is_list) {
    add(*prompt);
  } else if (prompt->size() > kMaxPrompts) {
    fields.Fail("prompt", absl::StrCat("has ", prompt->size(), " prompts; at most ", kMaxPrompts, " are allowed"));
  } else {
    for (const Json& one : *prompt) {
      if (!one.is_string() && !one.is_array()) {
        fields.Fail("prompt", absl::StrCat("has ", KindOf(one), " among its prompts; each is a string or token ids"),
                    "invalid_type");
        return;
      }
      add(one);
    }
  }
}

}  // namespace

void ReadChat(FieldReader& fields, v1::GenerateRequest* request) {
  if (const Json* const messages = fields.Any("messages"); messages == nullptr) {
    fields.Fail("messages", "is missing; it takes an array of messages", "missing_required_parameter");
  } else if (!messages->is_array()) {
    fields.Fail("messages", absl::StrCat("is ", KindOf(*messages), "; it takes an array of messages"), "invalid_type");
  } else if (messages->empty()) {
    fields.Fail("messages", "is empty; give at least one");
  } else if (messages->size() > kMaxMessages) {
    fields.Fail("messages", absl::StrCat("has ", messages->size(), "; at most ", kMaxMessages, " are allowed"));
  } else {
    for (size_t i = 0; i < messages->size() && fields.ok(); ++i) {
      ReadMessage(fields, i, (*messages)[i], request->add_messages());
    }
  }
  if (const auto add = fields.Bool("add_generation_prompt"); add.has_value()) request->set_add_generation_prompt(*add);
  if (const auto go_on = fields.Bool("continue_final_message"); go_on.has_value()) {
    request->set_continue_final_message(*go_on);
  }
  if (const Json* const kwargs = fields.Object("chat_template_kwargs"); kwargs != nullptr) {
    request->set_chat_template_kwargs(kwargs->dump());
  }
  fields.NotOffered("chat_template", "the model's own is used");
  fields.NotOffered("documents", "put them into a message");
  fields.NotOffered("tools", kNoGrammar);
  fields.NotOffered("functions", kNoGrammar);
}

absl::StatusOr<GenerationRequest> ParseChatRequest(FieldReader& fields) {
  GenerationRequest parsed;
  parsed.chat = true;
  v1::GenerateRequest request;
  ReadCommon(fields, &parsed, &request);
  ReadChat(fields, &request);
  const auto max_tokens = fields.Integer("max_tokens", 1, kUint32Max);
  const auto max_completion_tokens = fields.Integer("max_completion_tokens", 1, kUint32Max);
  if (max_tokens.has_value() && max_completion_tokens.has_value() && *max_tokens != *max_completion_tokens) {
    fields.Fail("max_tokens",
                absl::StrCat("= ", *max_tokens, " and max_completion_tokens = ", *max_completion_tokens,
                             " are two words for one thing; give one of them"),
                "invalid_parameter_combination");
  }
  if (const auto limit = max_completion_tokens.has_value() ? max_completion_tokens : max_tokens; limit.has_value()) {
    request.set_max_tokens(static_cast<uint32_t>(*limit));
  }
  const bool logprobs = fields.Bool("logprobs").value_or(false);
  const auto top_logprobs = fields.Integer("top_logprobs", 0, kMaxLogprobs);
  if (top_logprobs.value_or(0) > 0 && !logprobs) fields.Fail("top_logprobs", "needs logprobs to be true");
  if (logprobs) SetLogprobs(top_logprobs.value_or(0), &parsed, &request);
  fields.NotOffered("echo", "it is for completions");
  fields.NotOffered("add_special_tokens", "the chat template writes them");
  if (const Json* const choice = fields.Any("tool_choice");
      choice != nullptr && *choice != "none" && *choice != "auto") {
    fields.Fail("tool_choice", absl::StrCat("is not offered; ", kNoGrammar), "unsupported_parameter");
  }
  fields.NotOffered("function_call", kNoGrammar, "none");
  fields.NotOffered("modalities", kOnlyText, Json::array({"text"}));
  fields.NotOffered("audio", kOnlyText);
  fields.NotOffered("web_search_options", kOnlyText);
  parsed.calls.push_back(std::move(request));
  return Finished(fields, std::move(parsed));
}

absl::StatusOr<GenerationRequest> ParseCompletionRequest(FieldReader& fields) {
  GenerationRequest parsed;
  v1::GenerateRequest request;
  ReadCommon(fields, &parsed, &request);
  const auto max_tokens = fields.Integer("max_tokens", 1, kUint32Max);
  // Some tools send both.
  const auto max_completion_tokens = fields.Integer("max_completion_tokens", 1, kUint32Max);
  if (max_tokens.has_value() && max_completion_tokens.has_value() && *max_tokens != *max_completion_tokens) {
    fields.Fail("max_tokens",
                absl::StrCat("= ", *max_tokens, " and max_completion_tokens = ", *max_completion_tokens,
                             " are two words for one thing; give one of them"),
                "invalid_parameter_combination");
  }
  request.set_max_tokens(
      static_cast<uint32_t>(max_tokens.value_or(max_completion_tokens.value_or(kCompletionMaxTokens))));
  if (!max_tokens.has_value() && request.min_tokens() > request.max_tokens())
    request.set_max_tokens(request.min_tokens());
  const auto logprobs = fields.Integer("logprobs", 0, kMaxLogprobs);
  if (logprobs.has_value()) SetLogprobs(*logprobs, &parsed, &request);
  parsed.echo = fields.Bool("echo").value_or(false);
  if (parsed.echo && logprobs.has_value()) {
    // Those of the prompt stand before those of the answer.
    request.set_prompt_logprobs(std::max(request.prompt_logprobs(), static_cast<uint32_t>(*logprobs)));
  }
  fields.NotOffered("suffix", "give all that stands before in prompt");
  if (const auto add = fields.Bool("add_special_tokens"); add.has_value()) request.set_add_special_tokens(*add);
  ReadPrompts(fields, request, &parsed);
  return Finished(fields, std::move(parsed));
}

}  // namespace outrider::router
