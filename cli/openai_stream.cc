#include "cli/openai_stream.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxLineBytes = 16 << 20;

// A number of a JSON object; 0 if it has none.
int64_t Count(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<int64_t>() : 0;
}

const Json* Object(const Json& parent, const char* key) {
  if (!parent.is_object()) return nullptr;
  const auto found = parent.find(key);
  return found != parent.end() && found->is_object() ? &*found : nullptr;
}

std::string Text(const Json& choice) {
  const Json* const delta = Object(choice, "delta");
  const Json& holder = delta != nullptr ? *delta : choice;
  const auto found = holder.is_object() ? holder.find(delta != nullptr ? "content" : "text") : holder.end();
  return found != holder.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

absl::StatusOr<std::string> OpenAiBody(const v1::GenerateRequest& request, const std::string& model, OpenAiApi api) {
  Json json;
  json["model"] = model;
  if (api == OpenAiApi::kChat) {
    if (request.prompt_token_ids_size() > 0) {
      return absl::InvalidArgumentError(
          "token ids are no chat; use --backend openai, or --dataset-name sharegpt or custom");
    }
    json["messages"] = Json::array();
    for (const v1::ChatMessage& message : request.messages()) {
      json["messages"].push_back({{"role", message.role()}, {"content", message.content()}});
    }
    if (request.messages_size() == 0) json["messages"].push_back({{"role", "user"}, {"content", request.prompt()}});
    if (request.has_max_tokens()) json["max_completion_tokens"] = request.max_tokens();
  } else {
    if (request.messages_size() > 0) {
      return absl::InvalidArgumentError("a conversation is no completion; use --backend openai-chat");
    }
    if (request.prompt_token_ids_size() > 0) {
      json["prompt"] = std::vector<int32_t>(request.prompt_token_ids().begin(), request.prompt_token_ids().end());
    } else {
      json["prompt"] = request.prompt();
    }
    if (request.has_max_tokens()) json["max_tokens"] = request.max_tokens();
  }
  json["stream"] = true;
  json["stream_options"] = {{"include_usage", true}, {"continuous_usage_stats", true}};
  if (request.has_min_tokens()) json["min_tokens"] = request.min_tokens();
  if (request.has_temperature()) json["temperature"] = request.temperature();
  if (request.has_top_p()) json["top_p"] = request.top_p();
  if (request.has_top_k()) json["top_k"] = request.top_k();
  if (request.has_min_p()) json["min_p"] = request.min_p();
  if (request.has_repetition_penalty()) json["repetition_penalty"] = request.repetition_penalty();
  if (request.has_presence_penalty()) json["presence_penalty"] = request.presence_penalty();
  if (request.has_frequency_penalty()) json["frequency_penalty"] = request.frequency_penalty();
  if (request.has_seed()) json["seed"] = request.seed();
  if (request.stop_size() > 0) json["stop"] = std::vector<std::string>(request.stop().begin(), request.stop().end());
  if (request.stop_token_ids_size() > 0) {
    json["stop_token_ids"] = std::vector<int32_t>(request.stop_token_ids().begin(), request.stop_token_ids().end());
  }
  for (const v1::LogitBias& bias : request.logit_bias()) {
    json["logit_bias"][absl::StrCat(bias.token_id())] = bias.bias();
  }
  if (request.has_ignore_eos()) json["ignore_eos"] = request.ignore_eos();
  if (request.has_n()) json["n"] = request.n();
  if (request.has_priority()) json["priority"] = -request.priority();  // over HTTP, as in vLLM, lower goes first
  if (request.has_draft()) json["draft"] = request.draft();
  if (request.has_lookahead() && request.lookahead() >= 0) json["lookahead"] = request.lookahead();
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void OpenAiStream::Take(const std::string& bytes, double now_s) {
  for (const char c : bytes) {
    if (!record_.error.empty()) return;
    if (c != '\n') {
      line_ += c;
      if (line_.size() > kMaxLineBytes) Fail("an event of more than 16 MiB");
      continue;
    }
    // Other lines are comments, or the empty ones between events.
    if (absl::StartsWith(line_, "data:")) TakeEvent(std::string(absl::StripAsciiWhitespace(line_.substr(5))), now_s);
    line_.clear();
  }
}

void OpenAiStream::TakeEvent(const std::string& payload, double now_s) {
  if (payload == "[DONE]") {
    done_ = true;
    return;
  }
  const Json event = Json::parse(payload, nullptr, /*allow_exceptions=*/false);
  if (!event.is_object()) return Fail("an event that is no JSON object");
  if (const auto error = event.find("error"); error != event.end()) {
    const bool has_message = error->is_object() && error->contains("message") && (*error)["message"].is_string();
    return Fail(has_message ? (*error)["message"].get<std::string>() : error->dump());
  }
  const Json* const usage = Object(event, "usage");
  const auto choices = event.find("choices");
  if (choices != event.end() && choices->is_array() && !choices->empty()) {
    const std::string text = Text((*choices)[0]);
    // Without usage in each chunk a chunk counts as a token until the end tells.
    const int64_t num_new =
        usage != nullptr ? Count(*usage, "completion_tokens") - record_.output_tokens : !text.empty();
    record_.text += text;
    if (num_new > 0 || !text.empty()) {
      if (record_.message_tokens.empty()) {
        record_.ttft_s = now_s;
      } else {
        record_.itl_s.push_back(now_s - record_.latency_s);
      }
      record_.message_tokens.push_back(static_cast<int>(std::max<int64_t>(0, num_new)));
      record_.output_tokens += static_cast<int>(std::max<int64_t>(0, num_new));
      record_.latency_s = now_s;
    }
  }
  if (usage != nullptr) {
    record_.prompt_tokens = static_cast<int>(Count(*usage, "prompt_tokens"));
    record_.output_tokens = static_cast<int>(Count(*usage, "completion_tokens"));
  }
  const Json* const metrics = Object(event, "metrics");
  if (metrics == nullptr) return;
  if (const Json* const speculation = Object(*metrics, "speculative_decoding"); speculation != nullptr) {
    record_.num_drafts = Count(*speculation, "num_spec_steps");
    record_.draft_tokens = Count(*speculation, "num_draft_tokens");
    record_.accepted_tokens = Count(*speculation, "num_accepted_draft_tokens");
  }
}

void OpenAiStream::End() {
  if (record_.error.empty() && !done_) record_.error = "the stream ended without [DONE]";
  record_.success = record_.error.empty();
}

void OpenAiStream::Fail(const std::string& error) {
  record_.error = error.empty() ? "an error without a message" : error;
}

}  // namespace outrider
