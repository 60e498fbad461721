#include "text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/bpe_tokenizer.h"
#include "text/incremental_decoder.h"
#include "text/sentencepiece_tokenizer.h"

namespace outrider::text {
namespace {

// Control tokens that end a turn wherever they appear, whatever the file's eos is: several models name only one of two.
constexpr const char* kEndOfGenerationNames[] = {"<|eot_id|>",
                                                 "<|eom_id|>",
                                                 "<|im_end|>",
                                                 "<|end|>",
                                                 "<end_of_turn>",
                                                 "<|endoftext|>",
                                                 "<|eot|>",
                                                 "<|end_of_text|>",
                                                 "<|endofturn|>",
                                                 "<EOT>",
                                                 "<|return|>",
                                                 "<|call|>",
                                                 "</s>",
                                                 "<|END_OF_TURN_TOKEN|>",
                                                 "<\xef\xbd\x9c"
                                                 "end\xe2\x96\x81"
                                                 "of\xe2\x96\x81sentence\xef\xbd\x9c>"};

// Names from hostile files are shown escaped and cut.
std::string Quoted(absl::string_view bytes) {
  constexpr size_t kShown = 48;
  return absl::StrCat("\"", absl::CHexEscape(bytes.substr(0, kShown)), bytes.size() > kShown ? "...\"" : "\"");
}

TokenType TypeOf(const TokenizerDefinition& definition, size_t id) {
  return definition.types.empty() ? TokenType::kNormal : definition.types[id];
}

absl::Status CheckCount(const char* what, size_t count, size_t max) {
  if (count <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer has ", count, " ", what, "; at most ", max, " are allowed"));
}

absl::Status CheckId(const char* name, const std::optional<TokenId>& id, size_t vocab_size) {
  if (!id.has_value() || (*id >= 0 && static_cast<size_t>(*id) < vocab_size)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer's ", name, " ", *id, " is outside the vocabulary of ", vocab_size, " tokens"));
}

// What does not depend on the kind of tokenizer.
absl::Status ValidateDefinition(const TokenizerDefinition& definition) {
  const size_t vocab_size = definition.tokens.size();
  if (vocab_size == 0) return absl::InvalidArgumentError("tokenizer has no tokens");
  RETURN_IF_ERROR(CheckCount("tokens", vocab_size, kMaxVocabSize));
  RETURN_IF_ERROR(CheckCount("merges", definition.merges.size(), kMaxMerges));
  RETURN_IF_ERROR(CheckCount("bytes of chat template", definition.chat_template.size(), kMaxChatTemplateBytes));
  if (!definition.types.empty() && definition.types.size() != vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer has ", vocab_size, " tokens but ", definition.types.size(), " token types"));
  }
  if (!definition.scores.empty() && definition.scores.size() != vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer has ", vocab_size, " tokens but ", definition.scores.size(), " scores"));
  }
  RETURN_IF_ERROR(CheckId("bos_id", definition.bos_id, vocab_size));
  RETURN_IF_ERROR(CheckId("eos_id", definition.eos_id, vocab_size));
  RETURN_IF_ERROR(CheckId("eot_id", definition.eot_id, vocab_size));
  RETURN_IF_ERROR(CheckId("eom_id", definition.eom_id, vocab_size));
  RETURN_IF_ERROR(CheckId("unk_id", definition.unk_id, vocab_size));
  RETURN_IF_ERROR(CheckId("pad_id", definition.pad_id, vocab_size));
  if (definition.add_bos && !definition.bos_id.has_value()) {
    return absl::InvalidArgumentError("tokenizer adds bos but names no bos_id");
  }
  if (definition.add_eos && !definition.eos_id.has_value()) {
    return absl::InvalidArgumentError("tokenizer adds eos but names no eos_id");
  }

  size_t num_bytes = 0;
  absl::flat_hash_map<absl::string_view, size_t> seen;
  seen.reserve(vocab_size);
  for (size_t id = 0; id < vocab_size; ++id) {
    const std::string& token = definition.tokens[id];
    if (token.empty()) return absl::InvalidArgumentError(absl::StrCat("token ", id, " is empty"));
    const int type = static_cast<int>(TypeOf(definition, id));
    if (type < static_cast<int>(TokenType::kNormal) || type > static_cast<int>(TokenType::kByte)) {
      return absl::InvalidArgumentError(absl::StrCat("token ", id, " ", Quoted(token), " has unknown type ", type));
    }
    const bool is_searched_for =
        TypeOf(definition, id) == TokenType::kControl || TypeOf(definition, id) == TokenType::kUserDefined;
    const size_t max_bytes = is_searched_for ? kMaxSpecialTokenBytes : kMaxTokenBytes;
    if (token.size() > max_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("token ", id, " ", Quoted(token), " is ", token.size(),
                                                     " bytes; at most ", max_bytes, " are allowed"));
    }
    num_bytes += token.size();
    const auto [other, inserted] = seen.try_emplace(token, id);
    if (!inserted) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokens ", other->second, " and ", id, " are both ", Quoted(token)));
    }
  }
  for (size_t i = 0; i < definition.merges.size(); ++i) {
    const std::string& merge = definition.merges[i];
    if (merge.size() > 2 * kMaxTokenBytes + 1) {
      return absl::InvalidArgumentError(absl::StrCat("merge ", i, " ", Quoted(merge), " is ", merge.size(),
                                                     " bytes; at most ", 2 * kMaxTokenBytes + 1, " are allowed"));
    }
    num_bytes += merge.size();
  }
  return CheckCount("bytes of tokens and merges", num_bytes, kMaxDefinitionBytes);
}

}  // namespace

Tokenizer::Tokenizer(TokenizerDefinition definition)
    : definition_(std::move(definition)), fingerprint_(Fingerprint(definition_)) {
  for (const std::optional<TokenId>& id : {definition_.eos_id, definition_.eot_id, definition_.eom_id}) {
    if (id.has_value()) end_of_generation_ids_.push_back(*id);
  }
  for (TokenId id = 0; id < vocab_size(); ++id) {
    if (!IsControl(id)) continue;
    for (const char* name : kEndOfGenerationNames) {
      if (definition_.tokens[id] == name) end_of_generation_ids_.push_back(id);
    }
  }
  std::sort(end_of_generation_ids_.begin(), end_of_generation_ids_.end());
  end_of_generation_ids_.erase(std::unique(end_of_generation_ids_.begin(), end_of_generation_ids_.end()),
                               end_of_generation_ids_.end());
}

bool Tokenizer::IsControl(TokenId id) const {
  return InVocabulary(id) && TypeOf(definition_, static_cast<size_t>(id)) == TokenType::kControl;
}

bool Tokenizer::IsSpecial(TokenId id) const {
  return IsControl(id) || (InVocabulary(id) && TypeOf(definition_, static_cast<size_t>(id)) == TokenType::kUnknown);
}

bool Tokenizer::IsEndOfGeneration(TokenId id) const {
  return std::binary_search(end_of_generation_ids_.begin(), end_of_generation_ids_.end(), id);
}

std::string Tokenizer::Decode(absl::Span<const TokenId> ids, bool skip_special_tokens) const {
  Utf8Assembler assembler;
  std::string out;
  for (const TokenId id : ids) {
    if (skip_special_tokens && IsSpecial(id)) continue;
    assembler.Push(TokenBytes(id), &out);
  }
  assembler.Flush(&out);
  // The space that encoding put before the text.
  if (definition_.add_space_prefix && definition_.model == "llama" && !out.empty() && out[0] == ' ') out.erase(0, 1);
  return out;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(TokenizerDefinition definition) {
  if (definition.model != "gpt2" && definition.model != "llama") {
    constexpr char kSupported[] = "; supported: gpt2 (byte-level BPE), llama (SentencePiece's BPE)";
    for (const char* known : {"bert", "t5", "rwkv"}) {
      if (definition.model == known) {
        return absl::UnimplementedError(absl::StrCat("tokenizer model \"", known, "\" is not supported", kSupported));
      }
    }
    return absl::InvalidArgumentError(absl::StrCat("unknown tokenizer model ", Quoted(definition.model), kSupported));
  }
  RETURN_IF_ERROR(ValidateDefinition(definition));
  if (definition.model == "llama") return SentencePieceTokenizer::Make(std::move(definition));
  return BpeTokenizer::Make(std::move(definition));
}

}  // namespace outrider::text
