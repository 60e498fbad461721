#include "router/http/generation_response.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "router/http/json_writer.h"
#include "text/utf8.h"

namespace outrider::router {
namespace {

void AppendString(absl::string_view name, absl::string_view value, std::string* out) {
  AppendJsonKey(name, out);
  AppendJsonString(value, out);
}

void AppendInteger(absl::string_view name, int64_t value, std::string* out) {
  AppendJsonKey(name, out);
  AppendJsonNumber(value, out);
}

void AppendIds(absl::string_view name, const std::vector<TokenId>& ids, std::string* out) {
  AppendJsonKey(name, out);
  out->push_back('[');
  for (size_t i = 0; i < ids.size(); ++i) absl::StrAppend(out, i == 0 ? "" : ",", ids[i]);
  out->push_back(']');
}

std::string TokenText(const text::Tokenizer* tokenizer, TokenId id) {
  if (tokenizer == nullptr) return absl::StrCat("token_id:", id);
  return text::ReplaceInvalidUtf8(tokenizer->TokenBytes(id));
}

void AppendHead(const AnswerIdentity& identity, const char* object, std::string* out) {
  out->push_back('{');
  AppendString("id", identity.id, out);
  AppendString("object", object, out);
  AppendInteger("created", identity.created, out);
  AppendString("model", identity.model, out);
}

void AppendUsage(const AnswerUsage& usage, std::string* out) {
  absl::StrAppend(out, "{\"prompt_tokens\":", usage.prompt_tokens, ",\"completion_tokens\":", usage.completion_tokens,
                  ",\"total_tokens\":", usage.prompt_tokens + usage.completion_tokens,
                  ",\"prompt_tokens_details\":{\"cached_tokens\":", usage.cached_tokens,
                  ",\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0,"
                  "\"accepted_prediction_tokens\":",
                  usage.accepted_prediction_tokens,
                  ",\"rejected_prediction_tokens\":", usage.prediction_tokens - usage.accepted_prediction_tokens, "}}");
}

void AppendMetrics(const AnswerUsage& usage, std::string* out) {
  if (!usage.show_speculation) return;
  const v1::Usage& of = usage.speculation;
  const double steps = std::max<double>(1, of.rounds());
  const double drafted = std::max<double>(1, of.draft_tokens());
  AppendJsonKey("metrics", out);
  absl::StrAppend(out, "{\"speculative_decoding\":{\"mean_acceptance_length\":");
  AppendJsonNumber(1 + of.accepted_tokens() / steps, out);
  absl::StrAppend(out, ",\"draft_acceptance_rate\":");
  AppendJsonNumber(of.accepted_tokens() / drafted, out);
  AppendInteger("num_spec_steps", of.rounds(), out);
  AppendInteger("num_accepted_draft_tokens", of.accepted_tokens(), out);
  AppendInteger("num_draft_tokens", of.draft_tokens(), out);
  // [j]: rounds that accepted j tokens, to the longest draft.
  const auto& histogram = of.rounds_by_accepted();
  AppendInteger("num_spec_tokens", std::max(1, histogram.size()) - 1, out);
  AppendJsonKey("acceptance_histogram", out);
  out->push_back('[');
  for (int j = 0; j < histogram.size(); ++j) absl::StrAppend(out, j == 0 ? "" : ",", histogram[j]);
  if (histogram.empty()) out->push_back('0');
  out->append("]}}");
}

// JSON has no infinities: what can not be is as unlikely as vLLM says it.
float Finite(float logprob) { return std::max(logprob, -9999.0f); }

void AppendChatToken(const text::Tokenizer* tokenizer, TokenId id, float logprob, std::string* out) {
  out->push_back('{');
  AppendString("token", TokenText(tokenizer, id), out);
  AppendJsonKey("logprob", out);
  AppendJsonNumber(Finite(logprob), out);
  AppendJsonKey("bytes", out);
  if (tokenizer == nullptr) {
    out->append("null");
    return;
  }
  out->push_back('[');
  const absl::string_view bytes = tokenizer->TokenBytes(id);
  for (size_t i = 0; i < bytes.size(); ++i) {
    absl::StrAppend(out, i == 0 ? "" : ",", static_cast<int>(static_cast<uint8_t>(bytes[i])));
  }
  out->push_back(']');
}

void AppendChatLogprobs(const text::Tokenizer* tokenizer, const ChoicePart& part, std::string* out) {
  out->append("{\"content\":[");
  for (size_t i = 0; i < part.logprobs.size(); ++i) {
    const v1::TokenLogprobs& token = part.logprobs[i];
    if (i > 0) out->push_back(',');
    AppendChatToken(tokenizer, part.token_ids[i], token.logprob(), out);
    AppendJsonKey("top_logprobs", out);
    out->push_back('[');
    for (int j = 0; j < token.top_size(); ++j) {
      if (j > 0) out->push_back(',');
      AppendChatToken(tokenizer, token.top(j).token_id(), token.top(j).logprob(), out);
      out->push_back('}');
    }
    out->append("]}");
  }
  out->append("],\"refusal\":null}");
}

// The four arrays of a completion's logprobs.
class CompletionLogprobs {
 public:
  CompletionLogprobs(const text::Tokenizer* tokenizer, int64_t first_offset)
      : tokenizer_(tokenizer), offset_(first_offset) {}

  // The prompt's first token, which nothing came before.
  void AddFirst(TokenId id) {
    AddToken(id);
    logprobs_ += "null";
    tops_ += "null";
  }
  // `num_top` of the alternatives are shown, by text; the token is among them.
  void Add(TokenId id, const v1::TokenLogprobs& token, int num_top) {
    AddToken(id);
    AppendJsonNumber(Finite(token.logprob()), &logprobs_);
    tops_.push_back('{');
    bool has_chosen = false;
    for (int j = 0; j < std::min(num_top, token.top_size()); ++j) {
      AddTop(token.top(j).token_id(), token.top(j).logprob());
      has_chosen |= token.top(j).token_id() == id;
    }
    if (!has_chosen) AddTop(id, token.logprob());
    tops_.push_back('}');
  }
  void AppendTo(std::string* out) const {
    absl::StrAppend(out, "{\"tokens\":[", tokens_, "],\"token_logprobs\":[", logprobs_, "],\"top_logprobs\":[", tops_,
                    "],\"text_offset\":[", offsets_, "]}");
  }

 private:
  void AddToken(TokenId id) {
    const char* const comma = tokens_.empty() ? "" : ",";
    absl::StrAppend(&tokens_, comma);
    AppendJsonString(TokenText(tokenizer_, id), &tokens_);
    absl::StrAppend(&offsets_, comma, offset_);
    absl::StrAppend(&logprobs_, comma);
    absl::StrAppend(&tops_, comma);
    offset_ += NumCharacters(tokenizer_, {id});
  }
  void AddTop(TokenId id, float logprob) {
    if (tops_.back() != '{') tops_.push_back(',');
    AppendJsonString(TokenText(tokenizer_, id), &tops_);
    tops_.push_back(':');
    AppendJsonNumber(Finite(logprob), &tops_);
  }

  const text::Tokenizer* const tokenizer_;
  int64_t offset_;
  std::string tokens_, logprobs_, tops_, offsets_;
};

void AppendCompletionLogprobs(const text::Tokenizer* tokenizer, const ChoicePart& part, std::string* out) {
  CompletionLogprobs logprobs(tokenizer, part.first_text_offset);
  if (part.echoes_logprobs && part.prompt_logprobs != nullptr) {
    const PromptLogprobs& prompt = *part.prompt_logprobs;
    logprobs.AddFirst(prompt.token_ids[0]);
    for (size_t i = 0; i < prompt.logprobs.size(); ++i) {
      logprobs.Add(prompt.token_ids[i + 1], prompt.logprobs[i], part.num_echoed_top);
    }
  }
  for (size_t i = 0; i < part.logprobs.size(); ++i) {
    logprobs.Add(part.token_ids[i], part.logprobs[i], part.logprobs[i].top_size());
  }
  logprobs.AppendTo(out);
}

// As vLLM has them: null for the first token, then by token id.
void AppendPromptLogprobs(const text::Tokenizer* tokenizer, const PromptLogprobs& prompt, std::string* out) {
  AppendJsonKey("prompt_logprobs", out);
  out->append("[null");
  const auto add = [&](TokenId id, float logprob, int64_t rank) {
    absl::StrAppend(out, out->back() == '{' ? "\"" : ",\"", id, "\":{\"logprob\":");
    AppendJsonNumber(Finite(logprob), out);
    absl::StrAppend(out, ",\"rank\":", rank, ",\"decoded_token\":");
    AppendJsonString(TokenText(tokenizer, id), out);
    out->push_back('}');
  };
  for (size_t i = 0; i < prompt.logprobs.size(); ++i) {
    const v1::TokenLogprobs& token = prompt.logprobs[i];
    out->append(",{");
    add(prompt.token_ids[i + 1], token.logprob(), token.rank());
    for (int j = 0; j < token.top_size(); ++j) {
      if (token.top(j).token_id() != prompt.token_ids[i + 1])
        add(token.top(j).token_id(), token.top(j).logprob(), j + 1);
    }
    out->push_back('}');
  }
  out->push_back(']');
}

void AppendLogprobs(const AnswerIdentity& identity, const text::Tokenizer* tokenizer, const ChoicePart& part,
                    std::string* out) {
  AppendJsonKey("logprobs", out);
  const bool has_any = !part.logprobs.empty() || (part.echoes_logprobs && part.prompt_logprobs != nullptr);
  if (!identity.show_logprobs || !has_any || part.logprobs.size() > part.token_ids.size()) {
    out->append("null");
  } else if (identity.chat) {
    AppendChatLogprobs(tokenizer, part, out);
  } else {
    AppendCompletionLogprobs(tokenizer, part, out);
  }
}

void AppendEnd(const ChoicePart& part, std::string* out) {
  AppendJsonKey("finish_reason", out);
  switch (part.finish_reason) {
    case v1::FINISH_REASON_END_TOKEN:
    case v1::FINISH_REASON_STOP_TOKEN:
    case v1::FINISH_REASON_STOP_STRING:
      out->append("\"stop\"");
      break;
    case v1::FINISH_REASON_LENGTH:
      out->append("\"length\"");
      break;
    default:
      out->append("null");
  }
  AppendJsonKey("stop_reason", out);
  if (part.finish_reason == v1::FINISH_REASON_STOP_STRING) {
    AppendJsonString(part.stop_string, out);
  } else if (part.finish_reason == v1::FINISH_REASON_STOP_TOKEN && part.last_token_id >= 0) {
    AppendJsonNumber(int64_t{part.last_token_id}, out);
  } else {
    out->append("null");
  }
}

void AppendShownIds(const AnswerIdentity& identity, const ChoicePart& part, std::string* out) {
  if (!identity.show_token_ids) return;
  AppendIds("token_ids", part.token_ids, out);
  if (!identity.chat && !part.prompt_token_ids.empty()) AppendIds("prompt_token_ids", part.prompt_token_ids, out);
}

// Of each token that came with the chunk: who proposed it, and how much text it adds.
void AppendOrigins(const std::vector<v1::TokenOrigin>& origins, std::string* out) {
  AppendJsonKey("token_origins", out);
  out->push_back('[');
  for (const v1::TokenOrigin& origin : origins) {
    absl::StrAppend(out, out->back() == '[' ? "" : ",", "{\"draft\":", origin.draft() ? "true" : "false",
                    ",\"text_bytes\":", origin.text_bytes(), "}");
  }
  out->push_back(']');
}

// From the choices on: the usage, if chunks have it.
void EndChunk(const AnswerIdentity& identity, const AnswerUsage* usage, std::string* out) {
  if (identity.usage_in_chunks) {
    AppendJsonKey("usage", out);
    if (usage == nullptr) {
      out->append("null");
    } else {
      AppendUsage(*usage, out);
    }
  }
  out->push_back('}');
}

const char* ChunkObject(const AnswerIdentity& identity) {
  return identity.chat ? "chat.completion.chunk" : "text_completion";
}

}  // namespace

int64_t NumCharacters(const text::Tokenizer* tokenizer, const std::vector<TokenId>& token_ids) {
  int64_t count = 0;
  for (const TokenId id : token_ids) {
    const std::string text = TokenText(tokenizer, id);
    count += std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; });
  }
  return count;
}

std::string RenderAnswer(const AnswerIdentity& identity, const text::Tokenizer* tokenizer,
                         const std::vector<ChoicePart>& choices, const AnswerUsage& usage) {
  std::string out;
  AppendHead(identity, identity.chat ? "chat.completion" : "text_completion", &out);
  AppendJsonKey("choices", &out);
  out.push_back('[');
  for (const ChoicePart& choice : choices) {
    if (out.back() != '[') out.push_back(',');
    out.push_back('{');
    AppendInteger("index", choice.index, &out);
    if (identity.chat) {
      out.append(",\"message\":{\"role\":\"assistant\",\"content\":");
      AppendJsonString(choice.text, &out);
      out.append(",\"refusal\":null}");
    } else {
      AppendString("text", choice.text, &out);
    }
    AppendLogprobs(identity, tokenizer, choice, &out);
    AppendEnd(choice, &out);
    AppendShownIds(identity, choice, &out);
    if (!identity.chat && identity.show_prompt_logprobs && choice.prompt_logprobs != nullptr) {
      AppendPromptLogprobs(tokenizer, *choice.prompt_logprobs, &out);
    }
    out.push_back('}');
  }
  out.append("]");
  AppendJsonKey("usage", &out);
  AppendUsage(usage, &out);
  AppendMetrics(usage, &out);
  if (identity.chat && identity.show_token_ids) AppendIds("prompt_token_ids", choices[0].prompt_token_ids, &out);
  if (identity.chat && identity.show_prompt_logprobs && choices[0].prompt_logprobs != nullptr) {
    AppendPromptLogprobs(tokenizer, *choices[0].prompt_logprobs, &out);
  }
  out.push_back('}');
  return out;
}

std::string RenderRoleChunk(const AnswerIdentity& identity, uint32_t index,
                            const std::vector<TokenId>& prompt_token_ids, const AnswerUsage* usage) {
  std::string out;
  AppendHead(identity, ChunkObject(identity), &out);
  absl::StrAppend(&out, ",\"choices\":[{\"index\":", index,
                  ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]");
  if (identity.show_token_ids) AppendIds("prompt_token_ids", prompt_token_ids, &out);
  EndChunk(identity, usage, &out);
  return out;
}

std::string RenderChunkOf(const AnswerIdentity& identity, const text::Tokenizer* tokenizer, const ChoicePart& part,
                          const AnswerUsage* usage) {
  std::string out;
  AppendHead(identity, ChunkObject(identity), &out);
  absl::StrAppend(&out, ",\"choices\":[{\"index\":", part.index);
  const bool is_end = part.finish_reason != v1::FINISH_REASON_UNSPECIFIED;
  if (!identity.chat) {
    AppendString("text", part.text, &out);
  } else if (is_end) {
    out.append(",\"delta\":{}");
  } else {
    out.append(",\"delta\":{\"content\":");
    AppendJsonString(part.text, &out);
    out.push_back('}');
  }
  AppendLogprobs(identity, tokenizer, part, &out);
  AppendEnd(part, &out);
  if (!is_end) AppendShownIds(identity, part, &out);
  if (!is_end && identity.show_origins) AppendOrigins(part.origins, &out);
  const bool shows_prompt =
      identity.show_prompt_logprobs && part.prompt_logprobs != nullptr && part.prompt_logprobs->complete();
  if (shows_prompt && !identity.chat) AppendPromptLogprobs(tokenizer, *part.prompt_logprobs, &out);
  out.append("}]");
  if (shows_prompt && identity.chat && part.index == 0) AppendPromptLogprobs(tokenizer, *part.prompt_logprobs, &out);
  EndChunk(identity, usage, &out);
  return out;
}

std::string RenderUsageChunk(const AnswerIdentity& identity, const AnswerUsage& usage) {
  std::string out;
  AppendHead(identity, ChunkObject(identity), &out);
  out.append(",\"choices\":[],\"usage\":");
  AppendUsage(usage, &out);
  AppendMetrics(usage, &out);
  out.push_back('}');
  return out;
}

std::string SseEvent(absl::string_view data) { return absl::StrCat("data: ", data, "\n\n"); }

}  // namespace outrider::router
