// Text to token ids and back. Made from a TokenizerDefinition, which may come from a hostile file or peer.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "text/tokenizer_definition.h"

namespace outrider::text {

// Bounds on a definition; MakeTokenizer refuses what is larger with INVALID_ARGUMENT naming the bound. The largest
// published vocabularies have 262144 tokens, 514906 merges and tokens of some 300 bytes.
inline constexpr size_t kMaxVocabSize = size_t{1} << 20;
inline constexpr size_t kMaxMerges = size_t{1} << 21;
inline constexpr size_t kMaxTokenBytes = 4096;        // as stored in the definition
inline constexpr size_t kMaxSpecialTokenBytes = 256;  // of control and user-defined tokens: text is searched for them
inline constexpr size_t kMaxDefinitionBytes = size_t{64} << 20;  // tokens and merges together
inline constexpr size_t kMaxChatTemplateBytes = size_t{1} << 20;

struct EncodeOptions {
  // Adds what the definition asks for: bos first (add_bos), eos last (add_eos).
  bool add_special = false;
  // Recognises control tokens written out in the text, such as "<|im_end|>". Needed for rendered chat templates; off
  // for text that users write. User-defined tokens are recognised either way.
  bool parse_special = false;
};

// Thread safety: immutable after construction; any number of threads may call const methods.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // The ids of `text`. Any bytes are accepted, invalid UTF-8 too; the empty text has no ids (besides added ones).
  // For byte-level vocabularies that hold all 256 bytes, and pre-tokenizers without a normaliser, the bytes of the ids
  // together are `text`; bytes that a vocabulary lacks are left out, as Hugging Face's tokenizers do.
  // Time is O(n log n) in the bytes of `text`.
  virtual std::vector<TokenId> Encode(absl::string_view text, const EncodeOptions& options) const = 0;
  std::vector<TokenId> Encode(absl::string_view text) const { return Encode(text, EncodeOptions()); }

  // The raw bytes of a token, often not valid UTF-8 alone; a control token's are its name. Empty for an id outside
  // [0, vocab_size). The view lives as long as this.
  virtual absl::string_view TokenBytes(TokenId id) const = 0;

  // The id of the token whose bytes are `bytes`, control tokens included; -1 when there is none. Where a control token
  // and a normal one have the same bytes, the control token's.
  virtual TokenId FindToken(absl::string_view bytes) const = 0;

  int vocab_size() const { return static_cast<int>(definition_.tokens.size()); }
  bool InVocabulary(TokenId id) const { return id >= 0 && id < vocab_size(); }
  // kControl or kUnknown: has no place in text meant for people; left out when special tokens are skipped.
  bool IsSpecial(TokenId id) const;
  bool IsControl(TokenId id) const;
  // Sampling this id ends the text: eos, eot, eom, and control tokens known by name to end a turn.
  bool IsEndOfGeneration(TokenId id) const;
  // All of those, ascending.
  const std::vector<TokenId>& end_of_generation_ids() const { return end_of_generation_ids_; }

  // The text of `ids` at once, as an IncrementalDecoder would give it: invalid bytes are U+FFFD. Ids outside the
  // vocabulary give nothing.
  std::string Decode(absl::Span<const TokenId> ids, bool skip_special_tokens) const;

  // Fingerprint(definition()).
  const std::string& fingerprint() const { return fingerprint_; }
  const TokenizerDefinition& definition() const { return definition_; }

 protected:
  // REQUIRES: `definition` has passed MakeTokenizer's checks.
  explicit Tokenizer(TokenizerDefinition definition);

 private:
  const TokenizerDefinition definition_;
  const std::string fingerprint_;
  std::vector<TokenId> end_of_generation_ids_;
};

// Errors (INVALID_ARGUMENT, naming the field, its index and its value): no tokens, more of anything than the bounds
// above, duplicate or empty tokens, lists of different lengths, unknown types, merges that are malformed, duplicate or
// name missing tokens, special ids out of range, an unknown pre-tokenizer. UNIMPLEMENTED names a model kind that is
// known but not built.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(TokenizerDefinition definition);

}  // namespace outrider::text
