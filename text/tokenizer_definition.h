// What a model file says about its tokenizer, as plain values: GGUF readers fill it, the wire carries it, MakeTokenizer
// (tokenizer.h) checks it and builds from it. Nothing here is validated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/ids.h"

namespace outrider::text {

// The numbers are those of GGUF's tokenizer.ggml.token_type.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,      // <|im_end|>: no text of its own; recognised in text only when special tokens are parsed
  kUserDefined = 4,  // text that is always one token, wherever it stands
  kUnused = 5,
  kByte = 6,  // sentencepiece's <0x0A>
};

// GGUF keys are named where a field is one of them.
struct TokenizerDefinition {
  // tokenizer.ggml.model: "gpt2" is byte-level BPE, "llama" SentencePiece's.
  std::string model;
  // tokenizer.ggml.pre: how text is split into words before merging; SupportedPreTokenizers() lists what is known.
  // Empty means "default". With model "llama" it says where add_space_prefix puts its space: "default" before every
  // piece of text between special tokens, "metaspace" before those that begin without one, "metaspace-first" of these
  // only before the one that the text begins with.
  std::string pre;

  // tokenizer.ggml.tokens, by id, exactly as the file stores them. With model "gpt2", kNormal, kUnused and kUnknown
  // tokens are in the byte-to-unicode alphabet of GPT-2 (a space is "Ġ"); kControl and kUserDefined ones are plain
  // UTF-8. With model "llama" a space is "▁" and kByte tokens are "<0x0A>". Tokenizer::TokenBytes gives raw bytes.
  std::vector<std::string> tokens;
  // tokenizer.ggml.token_type, by id; empty means all normal.
  std::vector<TokenType> types;
  // tokenizer.ggml.scores, by id; empty where the kind has none.
  std::vector<float> scores;
  // tokenizer.ggml.merges, best first: "left right", in the alphabet of `tokens`, divided by the first space that is
  // not the first byte.
  std::vector<std::string> merges;

  std::optional<TokenId> bos_id;  // tokenizer.ggml.bos_token_id
  std::optional<TokenId> eos_id;  // tokenizer.ggml.eos_token_id
  std::optional<TokenId> eot_id;  // tokenizer.ggml.eot_token_id: ends a turn
  std::optional<TokenId> eom_id;  // tokenizer.ggml.eom_token_id: ends a message
  std::optional<TokenId> unk_id;  // tokenizer.ggml.unknown_token_id
  std::optional<TokenId> pad_id;  // tokenizer.ggml.padding_token_id

  bool add_bos = false;           // tokenizer.ggml.add_bos_token; DefaultAddBos(pre) when absent
  bool add_eos = false;           // tokenizer.ggml.add_eos_token
  bool add_space_prefix = false;  // tokenizer.ggml.add_space_prefix; counts for model "llama" only
  // A word that is a token as it stands is taken whole, whatever the merges would make of it. Hugging Face's
  // ignore_merges; GGUF has no key for it: Llama 3's and Tekken's pre-tokenizers imply it.
  bool ignore_merges = false;

  // tokenizer.chat_template, a Jinja source (chat_template.h); empty when the model has none.
  std::string chat_template;
};

// The raw bytes of token `id` of `definition`. REQUIRES: id < definition.tokens.size().
std::string DecodeStoredToken(const TokenizerDefinition& definition, size_t id);

// Whether a pre-tokenizer belongs to vocabularies that take whole words whatever their merges: Llama 3's and Tekken.
bool ImpliesIgnoreMerges(absl::string_view pre);

// What add_bos is when a GGUF file has no tokenizer.ggml.add_bos_token, by pre-tokenizer.
bool DefaultAddBos(absl::string_view pre);

// 32 hexadecimal digits that name a vocabulary: the first half of SHA-256 over model, pre, every token's bytes and
// type, the merges, scores where they stand for merges, and what Encode adds or ends at (bos, eos, eot, eom, unk, the
// add_ flags). The chat template, scores of byte-level BPE and the padding id are left out. Equal on every machine and
// for every way a definition was read: equal fingerprints mean that the same ids mean the same bytes and that every
// text has the same ids.
std::string Fingerprint(const TokenizerDefinition& definition);

}  // namespace outrider::text
