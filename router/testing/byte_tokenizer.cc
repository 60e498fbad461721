#include "router/testing/byte_tokenizer.h"

#include <utility>

#include "base/status_macros.h"

namespace outrider::router {
namespace {

std::string Utf8(int code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 0x3F))};
}

}  // namespace

text::TokenizerDefinition ByteDefinition() {
  text::TokenizerDefinition definition;
  definition.model = "gpt2";
  // GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on.
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    definition.tokens.push_back(Utf8(printable ? byte : next++));
  }
  definition.tokens.insert(definition.tokens.end(), {"<|end|>", "<|start|>", "ab", "abc"});
  definition.types.assign(definition.tokens.size(), text::TokenType::kNormal);
  definition.types[kEndId] = definition.types[kStartId] = text::TokenType::kControl;
  definition.merges = {"a b", "ab c"};
  definition.eos_id = kEndId;
  definition.chat_template =
      "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>{% endfor %}"
      "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}";
  return definition;
}

std::unique_ptr<text::Tokenizer> MakeByteTokenizer() {
  absl::StatusOr<std::unique_ptr<text::Tokenizer>> tokenizer = text::MakeTokenizer(ByteDefinition());
  CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

std::vector<TokenId> IdsOf(const std::string& bytes) {
  std::vector<TokenId> ids;
  for (const char byte : bytes) ids.push_back(static_cast<uint8_t>(byte));
  return ids;
}

}  // namespace outrider::router
