// Random inputs for tests.
#pragma once

#include <cstddef>
#include <random>
#include <string>

namespace outrider::text {

// Any bytes, `num_bytes` of them.
std::string RandomBytes(std::mt19937_64& random, size_t num_bytes);

// `num_characters` characters of valid UTF-8: words, digits, punctuation, whitespace of several kinds, letters of
// several scripts, combining marks, emoji, any code point at times.
std::string RandomUnicode(std::mt19937_64& random, size_t num_characters);

}  // namespace outrider::text
