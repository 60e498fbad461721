// Byte pair encoding over the characters of a text whose spaces are "▁" (U+2581), as SentencePiece has it (Kudo &
// Richardson 2018, arXiv:1808.06226) and Llama 2, Mistral and Gemma use it. A character that the vocabulary lacks
// becomes its bytes' tokens "<0x0A>", or where those lack too the unknown token, once for a run of such characters.
//
// Merges are those of the definition, or where it has scores only (GGUF) follow from them: two tokens merge if what
// they make is a token, the highest score first.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/ids.h"
#include "text/bpe_merges.h"
#include "text/special_token_trie.h"
#include "text/tokenizer.h"

namespace outrider::text {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  // As MakeTokenizer, for definitions of model "llama" whose sizes and ids have been checked.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(TokenizerDefinition definition);

  using Tokenizer::Encode;
  std::vector<TokenId> Encode(absl::string_view text, const EncodeOptions& options) const override;
  absl::string_view TokenBytes(TokenId id) const override;
  TokenId FindToken(absl::string_view bytes) const override;

 private:
  explicit SentencePieceTokenizer(TokenizerDefinition definition) : Tokenizer(std::move(definition)) {}
  absl::Status ReadMerges();
  absl::Status MergesFromScores();
  // A piece of text between special tokens, `offset` bytes from the beginning.
  void EncodePlain(absl::string_view text, size_t offset, BpeMerges::Workspace* workspace,
                   std::vector<TokenId>* ids) const;

  enum class Prefix : uint8_t {
    kNever,
    kAlways,       // "▁" goes before every piece
    kUnlessThere,  // unless it begins with one
    kFirst,        // and only before the piece that the text begins with
  };
  Prefix prefix_ = Prefix::kNever;
  std::string bytes_;                                             // of all tokens, one after another
  std::vector<uint64_t> first_byte_;                              // [vocab_size + 1], into bytes_
  absl::flat_hash_map<absl::string_view, TokenId> ids_by_bytes_;  // views of bytes_
  absl::flat_hash_map<absl::string_view, TokenId> ids_by_piece_;  // tokens that text can become, as stored
  TokenId byte_ids_[256];                                         // -1: none
  BpeMerges merges_;
  SpecialTokenTrie control_and_user_defined_;  // what is searched for with parse_special
  SpecialTokenTrie user_defined_;              // and without
};

}  // namespace outrider::text
