// A tiny byte-level vocabulary for tests: id b is byte b for 0 <= b < 256, then two control tokens and two merges.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "text/tokenizer.h"
#include "text/tokenizer_definition.h"

namespace outrider::router {

inline constexpr TokenId kEndId = 256;    // <|end|>, ends the text
inline constexpr TokenId kStartId = 257;  // <|start|>
inline constexpr TokenId kAbId = 258;     // "ab"
inline constexpr TokenId kAbcId = 259;    // "abc"
inline constexpr int kByteVocabSize = 260;

// With a chat template: "<|start|>ROLE\nCONTENT<|end|>" a message, then "<|start|>assistant\n".
text::TokenizerDefinition ByteDefinition();
std::unique_ptr<text::Tokenizer> MakeByteTokenizer();

// One id a byte.
std::vector<TokenId> IdsOf(const std::string& bytes);

}  // namespace outrider::router
