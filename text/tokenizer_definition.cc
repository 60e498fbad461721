#include "text/tokenizer_definition.h"

#include <array>
#include <bit>
#include <cstddef>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "text/byte_alphabet.h"
#include "text/sha256.h"

namespace outrider::text {
namespace {

// Everything goes in with its length, so that no two different definitions are the same bytes.
class Hasher {
 public:
  void Number(uint64_t value) {
    char bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
    sha_.Update(absl::string_view(bytes, sizeof(bytes)));
  }
  void Bytes(absl::string_view bytes) {
    Number(bytes.size());
    sha_.Update(bytes);
  }
  void OptionalId(const std::optional<TokenId>& id) { Number(id.has_value() ? uint64_t{1} + uint32_t(*id) : 0); }
  std::array<uint8_t, 32> Finish() { return sha_.Finish(); }

 private:
  Sha256 sha_;
};

}  // namespace

bool ImpliesIgnoreMerges(absl::string_view pre) {
  return pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3" || pre == "falcon3" || pre == "tekken";
}

bool DefaultAddBos(absl::string_view pre) { return ImpliesIgnoreMerges(pre); }

std::string DecodeStoredToken(const TokenizerDefinition& definition, size_t id) {
  const std::string& stored = definition.tokens[id];
  const TokenType type = id < definition.types.size() ? definition.types[id] : TokenType::kNormal;
  if (definition.model == "llama" && type != TokenType::kControl) {
    int byte = 0;
    if (type == TokenType::kByte && stored.size() == 6 && absl::StartsWith(stored, "<0x") && stored[5] == '>' &&
        absl::SimpleHexAtoi(stored.substr(3, 2), &byte)) {
      return std::string(1, static_cast<char>(byte));
    }
    return absl::StrReplaceAll(stored, {{"\xe2\x96\x81", " "}});
  }
  if (definition.model != "gpt2" || type == TokenType::kControl || type == TokenType::kUserDefined) return stored;
  // What is outside the alphabet (padding entries, mostly) stands for itself; no text is encoded to it.
  return AlphabetToBytes(stored).value_or(stored);
}

std::string Fingerprint(const TokenizerDefinition& definition) {
  Hasher hasher;
  hasher.Bytes("outrider tokenizer 1");
  hasher.Bytes(definition.model);
  hasher.Bytes(definition.pre.empty() ? "default" : definition.pre);
  hasher.Number(definition.tokens.size());
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    hasher.Bytes(DecodeStoredToken(definition, id));
    hasher.Number(static_cast<uint64_t>(id < definition.types.size() ? definition.types[id] : TokenType::kNormal));
  }
  hasher.Number(definition.merges.size());
  for (const std::string& merge : definition.merges) hasher.Bytes(merge);
  if (definition.model == "llama" && definition.merges.empty()) {
    hasher.Number(definition.scores.size());
    for (const float score : definition.scores) hasher.Number(std::bit_cast<uint32_t>(score));
  }
  hasher.OptionalId(definition.bos_id);
  hasher.OptionalId(definition.eos_id);
  hasher.OptionalId(definition.eot_id);
  hasher.OptionalId(definition.eom_id);
  hasher.OptionalId(definition.unk_id);
  hasher.Number(definition.add_bos);
  hasher.Number(definition.add_eos);
  hasher.Number(definition.add_space_prefix);
  hasher.Number(definition.ignore_merges || ImpliesIgnoreMerges(definition.pre));
  const std::array<uint8_t, 32> digest = hasher.Finish();
  std::string hex;
  for (int i = 0; i < 16; ++i) {
    hex.push_back("0123456789abcdef"[digest[i] >> 4]);
    hex.push_back("0123456789abcdef"[digest[i] & 15]);
  }
  return hex;
}

}  // namespace outrider::text
