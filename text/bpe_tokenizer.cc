#include "text/bpe_tokenizer.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/byte_alphabet.h"

namespace outrider::text {
namespace {

std::string Quoted(absl::string_view bytes) { return absl::StrCat("\"", absl::CHexEscape(bytes.substr(0, 48)), "\""); }

}  // namespace

struct BpeTokenizer::Workspace {
  std::vector<absl::string_view> words;
  BpeMerges::Workspace merges;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Make(TokenizerDefinition definition) {
  ASSIGN_OR_RETURN(std::unique_ptr<PreTokenizer> pre_tokenizer, PreTokenizer::Make(definition.pre));
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer(std::move(definition)));
  tokenizer->pre_tokenizer_ = std::move(pre_tokenizer);
  const TokenizerDefinition& def = tokenizer->definition();
  tokenizer->ignore_merges_ = def.ignore_merges || ImpliesIgnoreMerges(def.pre);
  const size_t vocab_size = def.tokens.size();

  size_t num_bytes = 0;
  for (const std::string& token : def.tokens) num_bytes += token.size();
  tokenizer->bytes_.reserve(num_bytes);  // raw bytes are never more than the stored ones
  tokenizer->first_byte_.reserve(vocab_size + 1);
  for (size_t id = 0; id < vocab_size; ++id) {
    tokenizer->first_byte_.push_back(tokenizer->bytes_.size());
    tokenizer->bytes_ += DecodeStoredToken(def, id);
  }
  tokenizer->first_byte_.push_back(tokenizer->bytes_.size());

  absl::flat_hash_map<absl::string_view, TokenId> by_stored;
  by_stored.reserve(vocab_size);
  tokenizer->ids_by_bytes_.reserve(vocab_size);
  for (size_t i = 0; i < vocab_size; ++i) {
    const TokenId id = static_cast<TokenId>(i);
    by_stored.emplace(def.tokens[i], id);
    const absl::string_view bytes = tokenizer->TokenBytes(id);
    const bool is_control = tokenizer->IsControl(id);
    const auto [entry, inserted] = tokenizer->ids_by_bytes_.try_emplace(bytes, id);
    if (!inserted && is_control) entry->second = id;
    const bool is_user_defined = !def.types.empty() && def.types[i] == TokenType::kUserDefined;
    if (is_control || is_user_defined) tokenizer->control_and_user_defined_.Add(bytes, id);
    if (is_user_defined) tokenizer->user_defined_.Add(bytes, id);
    if (tokenizer->ignore_merges_ && !is_control && !is_user_defined && AlphabetToBytes(def.tokens[i]).has_value()) {
      tokenizer->words_.emplace(bytes, id);
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = by_stored.find(ByteToAlphabet(static_cast<uint8_t>(byte)));
    tokenizer->byte_ids_[byte] = found == by_stored.end() ? -1 : found->second;
  }

  tokenizer->merges_.Reserve(def.merges.size());
  for (size_t i = 0; i < def.merges.size(); ++i) {
    const std::string& merge = def.merges[i];
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos || space + 1 == merge.size()) {
      return absl::InvalidArgumentError(absl::StrCat("merge ", i, " ", Quoted(merge), " is not two tokens"));
    }
    const absl::string_view left = absl::string_view(merge).substr(0, space);
    const absl::string_view right = absl::string_view(merge).substr(space + 1);
    const std::string merged = absl::StrCat(left, right);
    TokenId ids[3];
    const absl::string_view names[3] = {left, right, merged};
    for (int k = 0; k < 3; ++k) {
      const auto found = by_stored.find(names[k]);
      if (found == by_stored.end()) {
        return absl::InvalidArgumentError(absl::StrCat("merge ", i, " ", Quoted(merge), " names ", Quoted(names[k]),
                                                       ", which is not in the vocabulary"));
      }
      ids[k] = found->second;
    }
    uint32_t other = 0;
    if (!tokenizer->merges_.Add(ids[0], ids[1], static_cast<uint32_t>(i), ids[2], &other)) {
      return absl::InvalidArgumentError(absl::StrCat("merges ", other, " and ", i, " are both ", Quoted(merge)));
    }
  }
  return tokenizer;
}

absl::string_view BpeTokenizer::TokenBytes(TokenId id) const {
  if (!InVocabulary(id)) return absl::string_view();
  const size_t first = first_byte_[id];
  return absl::string_view(bytes_).substr(first, first_byte_[id + 1] - first);
}

TokenId BpeTokenizer::FindToken(absl::string_view bytes) const {
  const auto found = ids_by_bytes_.find(bytes);
  return found == ids_by_bytes_.end() ? -1 : found->second;
}

std::vector<TokenId> BpeTokenizer::Encode(absl::string_view text, const EncodeOptions& options) const {
  std::vector<TokenId> ids;
  if (options.add_special && definition().add_bos) ids.push_back(*definition().bos_id);
  const SpecialTokenTrie& special = options.parse_special ? control_and_user_defined_ : user_defined_;
  Workspace workspace;
  special.Split(
      text, [&](absl::string_view plain, size_t) { EncodePlain(plain, &workspace, &ids); },
      [&](TokenId id) { ids.push_back(id); });
  if (options.add_special && definition().add_eos) ids.push_back(*definition().eos_id);
  return ids;
}

void BpeTokenizer::EncodePlain(absl::string_view text, Workspace* workspace, std::vector<TokenId>* ids) const {
  std::string normalized;
  if (pre_tokenizer_->normalizes()) {
    normalized = pre_tokenizer_->Normalize(text);
    text = normalized;
  }
  pre_tokenizer_->Split(text, &workspace->words);
  for (const absl::string_view word : workspace->words) EncodeWord(word, workspace, ids);
}

void BpeTokenizer::EncodeWord(absl::string_view word, Workspace* workspace, std::vector<TokenId>* ids) const {
  if (ignore_merges_) {
    const auto found = words_.find(word);
    if (found != words_.end()) {
      ids->push_back(found->second);
      return;
    }
  }
  workspace->merges.Clear();
  for (const char byte : word) {
    const TokenId id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id >= 0) workspace->merges.Add(id);
  }
  merges_.Apply(&workspace->merges, ids);
}

}  // namespace outrider::text
