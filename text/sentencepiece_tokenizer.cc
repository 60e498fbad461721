#include "text/sentencepiece_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/utf8.h"

namespace outrider::text {
namespace {

constexpr absl::string_view kSpace = "\xe2\x96\x81";  // ▁

std::string Quoted(absl::string_view bytes) { return absl::StrCat("\"", absl::CHexEscape(bytes.substr(0, 48)), "\""); }

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Make(TokenizerDefinition definition) {
  std::unique_ptr<SentencePieceTokenizer> tokenizer(new SentencePieceTokenizer(std::move(definition)));
  const TokenizerDefinition& def = tokenizer->definition();
  if (def.pre == "metaspace") {
    tokenizer->prefix_ = Prefix::kUnlessThere;
  } else if (def.pre == "metaspace-first") {
    tokenizer->prefix_ = Prefix::kFirst;
  } else if (def.pre.empty() || def.pre == "default") {
    tokenizer->prefix_ = Prefix::kAlways;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("unknown pre-tokenizer ", Quoted(def.pre),
                                                   " of tokenizer model \"llama\"; known: default, metaspace, "
                                                   "metaspace-first"));
  }
  if (!def.add_space_prefix) tokenizer->prefix_ = Prefix::kNever;

  const size_t vocab_size = def.tokens.size();
  std::fill_n(tokenizer->byte_ids_, 256, -1);
  tokenizer->first_byte_.reserve(vocab_size + 1);
  for (size_t id = 0; id < vocab_size; ++id) {
    tokenizer->first_byte_.push_back(tokenizer->bytes_.size());
    tokenizer->bytes_ += DecodeStoredToken(def, id);
  }
  tokenizer->first_byte_.push_back(tokenizer->bytes_.size());
  for (size_t i = 0; i < vocab_size; ++i) {
    const TokenId id = static_cast<TokenId>(i);
    const TokenType type = def.types.empty() ? TokenType::kNormal : def.types[i];
    const absl::string_view bytes = tokenizer->TokenBytes(id);
    const auto [entry, inserted] = tokenizer->ids_by_bytes_.try_emplace(bytes, id);
    const auto rank = [&](TokenId of) {
      if (tokenizer->IsControl(of)) return 2;
      return !def.types.empty() && def.types[of] == TokenType::kByte ? 0 : 1;
    };
    if (!inserted && rank(id) > rank(entry->second)) entry->second = id;
    if (type == TokenType::kByte) {
      if (bytes.size() != 1) {
        return absl::InvalidArgumentError(absl::StrCat("token ", i, " ", Quoted(def.tokens[i]), " is no byte <0xNN>"));
      }
      tokenizer->byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
    }
    if (type == TokenType::kControl || type == TokenType::kUserDefined) {
      tokenizer->control_and_user_defined_.Add(def.tokens[i], id);
    }
    if (type == TokenType::kUserDefined) tokenizer->user_defined_.Add(def.tokens[i], id);
    if (type == TokenType::kNormal || type == TokenType::kUserDefined) {
      tokenizer->ids_by_piece_.emplace(def.tokens[i], id);
    }
  }
  RETURN_IF_ERROR(def.merges.empty() && !def.scores.empty() ? tokenizer->MergesFromScores() : tokenizer->ReadMerges());
  return tokenizer;
}

absl::Status SentencePieceTokenizer::ReadMerges() {
  const std::vector<std::string>& merges = definition().merges;
  merges_.Reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const absl::string_view merge = merges[i];
    const size_t space = merge.find(' ', 1);
    if (space == absl::string_view::npos || space + 1 == merge.size()) {
      return absl::InvalidArgumentError(absl::StrCat("merge ", i, " ", Quoted(merge), " is not two tokens"));
    }
    const std::string merged = absl::StrCat(merge.substr(0, space), merge.substr(space + 1));
    TokenId ids[3];
    const absl::string_view names[3] = {merge.substr(0, space), merge.substr(space + 1), merged};
    for (int k = 0; k < 3; ++k) {
      const auto found = ids_by_piece_.find(names[k]);
      if (found == ids_by_piece_.end()) {
        return absl::InvalidArgumentError(absl::StrCat("merge ", i, " ", Quoted(merge), " names ", Quoted(names[k]),
                                                       ", which is not in the vocabulary"));
      }
      ids[k] = found->second;
    }
    uint32_t other = 0;
    if (!merges_.Add(ids[0], ids[1], static_cast<uint32_t>(i), ids[2], &other)) {
      return absl::InvalidArgumentError(absl::StrCat("merges ", other, " and ", i, " are both ", Quoted(merge)));
    }
  }
  return absl::OkStatus();
}

absl::Status SentencePieceTokenizer::MergesFromScores() {
  const TokenizerDefinition& def = definition();
  for (size_t i = 0; i < def.scores.size(); ++i) {
    if (std::isnan(def.scores[i])) return absl::InvalidArgumentError(absl::StrCat("the score of token ", i, " is NaN"));
  }
  std::vector<float> scores = def.scores;
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  size_t num_merges = 0;
  for (const auto& [piece, id] : ids_by_piece_) {
    const uint32_t rank = static_cast<uint32_t>(
        std::lower_bound(scores.begin(), scores.end(), def.scores[id], std::greater<>()) - scores.begin());
    for (size_t at = 1; at < piece.size(); ++at) {
      const auto left = ids_by_piece_.find(piece.substr(0, at));
      if (left == ids_by_piece_.end()) continue;
      const auto right = ids_by_piece_.find(piece.substr(at));
      if (right == ids_by_piece_.end()) continue;
      if (++num_merges > kMaxMerges) {
        return absl::InvalidArgumentError(
            absl::StrCat("the tokens' scores stand for more than ", kMaxMerges, " merges"));
      }
      uint32_t ignored = 0;
      merges_.Add(left->second, right->second, rank, id, &ignored);
    }
  }
  return absl::OkStatus();
}

absl::string_view SentencePieceTokenizer::TokenBytes(TokenId id) const {
  if (!InVocabulary(id)) return absl::string_view();
  const size_t first = first_byte_[id];
  return absl::string_view(bytes_).substr(first, first_byte_[id + 1] - first);
}

TokenId SentencePieceTokenizer::FindToken(absl::string_view bytes) const {
  const auto found = ids_by_bytes_.find(bytes);
  return found == ids_by_bytes_.end() ? -1 : found->second;
}

std::vector<TokenId> SentencePieceTokenizer::Encode(absl::string_view text, const EncodeOptions& options) const {
  std::vector<TokenId> ids;
  if (options.add_special && definition().add_bos) ids.push_back(*definition().bos_id);
  const SpecialTokenTrie& special = options.parse_special ? control_and_user_defined_ : user_defined_;
  BpeMerges::Workspace workspace;
  special.Split(
      text, [&](absl::string_view plain, size_t offset) { EncodePlain(plain, offset, &workspace, &ids); },
      [&](TokenId id) { ids.push_back(id); });
  if (options.add_special && definition().add_eos) ids.push_back(*definition().eos_id);
  return ids;
}

void SentencePieceTokenizer::EncodePlain(absl::string_view text, size_t offset, BpeMerges::Workspace* workspace,
                                         std::vector<TokenId>* ids) const {
  std::string normalized;
  normalized.reserve(text.size() + text.size() / 2 + kSpace.size());
  const bool begins_with_space = text[0] == ' ' || absl::StartsWith(text, kSpace);
  if (prefix_ == Prefix::kAlways || (prefix_ == Prefix::kUnlessThere && !begins_with_space) ||
      (prefix_ == Prefix::kFirst && !begins_with_space && offset == 0)) {
    absl::StrAppend(&normalized, kSpace);
  }
  for (const char c : text) {
    if (c == ' ') {
      absl::StrAppend(&normalized, kSpace);
    } else {
      normalized.push_back(c);
    }
  }
  workspace->Clear();
  bool after_unknown = false;
  for (absl::string_view rest = normalized; !rest.empty();) {
    const Utf8Step step = DecodeUtf8(rest);
    const absl::string_view character = rest.substr(0, step.num_bytes);
    rest.remove_prefix(step.num_bytes);
    const auto found = ids_by_piece_.find(character);
    if (found != ids_by_piece_.end()) {
      workspace->Add(found->second);
      after_unknown = false;
      continue;
    }
    const bool has_bytes = std::all_of(character.begin(), character.end(),
                                       [&](char byte) { return byte_ids_[static_cast<uint8_t>(byte)] >= 0; });
    if (has_bytes) {
      for (const char byte : character) workspace->Add(byte_ids_[static_cast<uint8_t>(byte)]);
      after_unknown = false;
    } else if (definition().unk_id.has_value()) {
      if (!after_unknown) workspace->Add(*definition().unk_id);
      after_unknown = true;
    }
  }
  merges_.Apply(workspace, ids);
}

}  // namespace outrider::text
