// Template source to tokens, with Hugging Face's settings: trim_blocks and lstrip_blocks on, the last newline dropped.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace outrider::text::jinja {

struct Token {
  enum class Kind : uint8_t {
    kText,         // outside of tags, whitespace control applied
    kOutputBegin,  // {{
    kOutputEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kString,  // text: escapes resolved
    kInteger,
    kFloat,
    kOperator,  // text: the operator
    kEnd,       // of the source
  };
  Kind kind;
  int line;  // from 1
  std::string text;
};

// Errors: INVALID_ARGUMENT "chat template line N: ...", for what is not closed and characters that begin no token.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

// The error all rooms of this folder give.
absl::Status TemplateError(int line, absl::string_view message);

}  // namespace outrider::text::jinja
