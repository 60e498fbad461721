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
                  "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}");
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

void AppendChatToken(const text::Tokenizer* tokenizer, TokenId id, float logprob, std::string* out) {
  out->push_back('{');
  AppendString("token", TokenText(tokenizer, id), out);
  AppendJsonKey("logprob", out);
  AppendJsonNumber(logprob, out);
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

void AppendCompletionLogprobs(const text::Tokenizer* tokenizer, const ChoicePart& part, std::string* out) {
  std::string tokens, logprobs, tops, offsets;
  int64_t offset = part.first_text_offset;
  for (size_t i = 0; i < part.logprobs.size(); ++i) {
    const v1::TokenLogprobs& token = part.logprobs[i];
    const char* const comma = i == 0 ? "" : ",";
    const TokenId id = part.token_ids[i];
    absl::StrAppend(&tokens, comma);
    AppendJsonString(TokenText(tokenizer, id), &tokens);
    absl::StrAppend(&logprobs, comma);
    AppendJsonNumber(token.logprob(), &logprobs);
    absl::StrAppend(&offsets, comma, offset);
    offset += NumCharacters(tokenizer, {id});
    // By text; the chosen token is among them.
    absl::StrAppend(&tops, comma, "{");
    bool has_chosen = false;
    for (int j = 0; j < token.top_size(); ++j) {
      if (j > 0) tops.push_back(',');
      AppendJsonString(TokenText(tokenizer, token.top(j).token_id()), &tops);
      tops.push_back(':');
      AppendJsonNumber(token.top(j).logprob(), &tops);
      has_chosen |= token.top(j).token_id() == id;
    }
    if (!has_chosen) {
      if (token.top_size() > 0) tops.push_back(',');
      AppendJsonString(TokenText(tokenizer, id), &tops);
      tops.push_back(':');
      AppendJsonNumber(token.logprob(), &tops);
    }
    tops.push_back('}');
  }
  absl::StrAppend(out, "{\"tokens\":[", tokens, "],\"token_logprobs\":[", logprobs, "],\"top_logprobs\":[", tops,
                  "],\"text_offset\":[", offsets, "]}");
}

void AppendLogprobs(const AnswerIdentity& identity, const text::Tokenizer* tokenizer, const ChoicePart& part,
                    std::string* out) {
  AppendJsonKey("logprobs", out);
  if (!identity.show_logprobs || part.logprobs.empty() || part.logprobs.size() > part.token_ids.size()) {
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
    out.push_back('}');
  }
  out.append("]");
  AppendJsonKey("usage", &out);
  AppendUsage(usage, &out);
  AppendMetrics(usage, &out);
  if (identity.chat && identity.show_token_ids) AppendIds("prompt_token_ids", choices[0].prompt_token_ids, &out);
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
  out.append("}]");
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
