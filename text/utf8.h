// UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace outrider::text {

// The offset of the first byte that is not part of a valid character (of a truncated or broken character, its first
// byte); nothing when all of `bytes` is valid.
std::optional<size_t> FirstInvalidUtf8(absl::string_view bytes);
inline bool IsValidUtf8(absl::string_view bytes) { return !FirstInvalidUtf8(bytes).has_value(); }

// One step of decoding.
struct Utf8Step {
  enum class Kind : uint8_t { kCharacter, kInvalid, kTruncated };
  Kind kind;
  // Bytes of the character, or of the maximal subpart to be replaced by one U+FFFD. kTruncated: all that is left, the
  // valid beginning of a character.
  uint8_t num_bytes;
  char32_t code_point;  // U+FFFD unless kCharacter
};
// REQUIRES: `bytes` is not empty.
Utf8Step DecodeUtf8(absl::string_view bytes);

// Appends `code_point`, or U+FFFD where it is none.
void AppendUtf8(char32_t code_point, std::string* out);

// `bytes` with each maximal invalid subpart replaced by U+FFFD, as Python's errors="replace" does.
std::string ReplaceInvalidUtf8(absl::string_view bytes);

}  // namespace outrider::text
