// GPT-2's byte-to-unicode alphabet: byte-level vocabularies are stored in it, one printable character a byte (a space
// is "Ġ", U+0120). Radford et al. 2019, encoder.py of the GPT-2 release.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace outrider::text {

// The character that stands for `byte`, as UTF-8.
absl::string_view ByteToAlphabet(uint8_t byte);

// The bytes that `text` stands for, or nothing when it has a character outside the alphabet or is not UTF-8.
std::optional<std::string> AlphabetToBytes(absl::string_view text);

// The other way, for any bytes.
std::string BytesToAlphabet(absl::string_view bytes);

}  // namespace outrider::text
