// Token ids to text as they come, never half a character.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "base/ids.h"
#include "text/tokenizer.h"

namespace outrider::text {

// Bytes in, valid UTF-8 out. Bytes that may yet become a character are held back (at most 3); bytes that can not become
// one are replaced as the Unicode standard recommends (chapter 3.9, "maximal subparts") and Python's errors="replace"
// does: one U+FFFD for each.
//
// A plain value: copying it is a snapshot, assigning an earlier copy is a rewind. Thread safety: none.
class Utf8Assembler {
 public:
  // Appends to `out` the text that `bytes` completes.
  void Push(absl::string_view bytes, std::string* out);
  // The end: an unfinished character becomes one U+FFFD. Ready for new bytes afterwards.
  void Flush(std::string* out);
  int num_pending_bytes() const { return num_pending_; }

 private:
  uint8_t pending_[3] = {};
  uint8_t num_pending_ = 0;
};

// For any split of a list of ids, the texts of Push and the last Flush together are Tokenizer::Decode of the list.
//
// A plain value of a few bytes: copying it is a snapshot. Thread safety: none.
class IncrementalDecoder {
 public:
  // `tokenizer` outlives this. With skip_special_tokens, control and unknown tokens give no text; like any token they
  // end nothing: bytes held back before one may be completed after it.
  IncrementalDecoder(const Tokenizer* tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  // The text that `id` completes; may be empty. An id outside the vocabulary gives none.
  std::string Push(TokenId id);
  // What is held back, as U+FFFD. Call once, after the last id.
  std::string Flush();
  bool has_pending() const { return assembler_.num_pending_bytes() > 0; }

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  Utf8Assembler assembler_;
};

}  // namespace outrider::text
