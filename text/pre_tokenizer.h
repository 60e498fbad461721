// Splits text into the words that BPE merges within, by the patterns a vocabulary was trained with, and normalises it
// first where the vocabulary's training did.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace outrider::text {

// The names Make knows (GGUF's tokenizer.ggml.pre), sorted.
std::vector<std::string> SupportedPreTokenizers();

// Those that split by just these patterns, in order, and do or do not normalise to form C; the best known name first.
// Patterns are compared as text, in the spelling of Hugging Face's tokenizer.json.
std::vector<std::string> PreTokenizersByPatterns(const std::vector<std::string>& patterns, bool nfc);

// The pattern that Hugging Face's ByteLevel pre-tokenizer has built in.
std::string Gpt2SplitPattern();

// Patterns run in order: each splits the pieces that the one before left, into its matches and what lies between them.
// Nothing is dropped: the pieces together are the text.
//
// Bytes that are not UTF-8 match no pattern: a run of them is a piece of its own, and the text on either side is split
// as if it ended there.
//
// Time is linear in the text: no pattern backtracks by more than the run of characters it is in. Should PCRE2's match
// limit be reached all the same, what is left of the piece stays whole; never is anything lost.
//
// Thread safety: immutable after construction.
class PreTokenizer {
 public:
  // INVALID_ARGUMENT names an unknown `name` and lists the known ones. Empty means "default".
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Make(absl::string_view name);
  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // Whether Normalize can change anything.
  bool normalizes() const { return normalizes_; }
  // `text` in Unicode's form C (qwen2) or as it is (the others). Invalid bytes stay.
  std::string Normalize(absl::string_view text) const;

  // Replaces `pieces` by views of `text`, in order, none of them empty.
  void Split(absl::string_view text, std::vector<absl::string_view>* pieces) const;

 private:
  struct Pattern;
  PreTokenizer();

  std::vector<Pattern> patterns_;
  bool normalizes_ = false;
};

}  // namespace outrider::text
