// The tokenizer that a GGUF file carries, as plain values for text::MakeTokenizer.
#pragma once

#include "absl/status/statusor.h"
#include "text/tokenizer_definition.h"
#include "worker/model/gguf.h"

namespace outrider {

// Copies the tokenizer.* metadata. A definition without tokens if the file has none. What MakeTokenizer checks is not
// checked here; keys that are missing take llama.cpp's defaults. INVALID_ARGUMENT naming the key for values of the
// wrong type or range.
absl::StatusOr<text::TokenizerDefinition> TokenizerFromGguf(const GgufFile& file);

}  // namespace outrider
