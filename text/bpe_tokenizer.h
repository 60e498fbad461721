// Byte-level byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909; over bytes: Radford et al. 2019), as GPT-2,
// Llama 3, Qwen and SmolLM use it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/ids.h"
#include "text/bpe_merges.h"
#include "text/pre_tokenizer.h"
#include "text/special_token_trie.h"
#include "text/tokenizer.h"

namespace outrider::text {

class BpeTokenizer final : public Tokenizer {
 public:
  // As MakeTokenizer, for definitions of model "gpt2" whose sizes and ids have been checked.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(TokenizerDefinition definition);

  using Tokenizer::Encode;
  std::vector<TokenId> Encode(absl::string_view text, const EncodeOptions& options) const override;
  absl::string_view TokenBytes(TokenId id) const override;
  TokenId FindToken(absl::string_view bytes) const override;

 private:
  // Space that EncodeWord uses again for every word of a call.
  struct Workspace;

  explicit BpeTokenizer(TokenizerDefinition definition) : Tokenizer(std::move(definition)) {}
  void EncodePlain(absl::string_view text, Workspace* workspace, std::vector<TokenId>* ids) const;
  void EncodeWord(absl::string_view word, Workspace* workspace, std::vector<TokenId>* ids) const;

  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  bool ignore_merges_ = false;
  std::string bytes_;                                             // of all tokens, one after another
  std::vector<uint64_t> first_byte_;                              // [vocab_size + 1], into bytes_
  absl::flat_hash_map<absl::string_view, TokenId> ids_by_bytes_;  // views of bytes_
  TokenId byte_ids_[256];                                         // -1: the vocabulary lacks the byte
  absl::flat_hash_map<absl::string_view, TokenId> words_;  // tokens that text can become; only with ignore_merges_
  BpeMerges merges_;
  SpecialTokenTrie control_and_user_defined_;  // what is searched for with parse_special
  SpecialTokenTrie user_defined_;              // and without
};

}  // namespace outrider::text
