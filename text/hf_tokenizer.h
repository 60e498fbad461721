// Hugging Face's tokenizer.json and tokenizer_config.json to a TokenizerDefinition.
#pragma once

#include <cstddef>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "text/tokenizer_definition.h"

namespace outrider::text {

inline constexpr size_t kMaxTokenizerJsonBytes = size_t{64} << 20;  // the largest published one has 33 MB

// The definition that `tokenizer_json` describes, as a GGUF conversion of it would have it: byte-level BPE whose
// pre-tokenizer is one we know by its patterns (Llama 3, Qwen), or BPE with byte fallback over text whose spaces are
// "▁" (Llama 2, Mistral, Gemma). `tokenizer_config_json` adds the special ids' names, what is added to a text and the
// chat template; it may be empty.
//
// Special added tokens become control tokens, other added tokens user-defined ones; ids without a token become unused.
//
// Errors: INVALID_ARGUMENT for what is not such a file, UNIMPLEMENTED naming the part for models, normalisers,
// pre-tokenizers and added tokens of kinds that are not built. The result is as unchecked as any definition:
// MakeTokenizer checks it.
absl::StatusOr<TokenizerDefinition> ReadHuggingFaceTokenizer(absl::string_view tokenizer_json,
                                                             absl::string_view tokenizer_config_json);

}  // namespace outrider::text
