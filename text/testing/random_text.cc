#include "text/testing/random_text.h"

#include <cstdint>

#include "text/utf8.h"

namespace outrider::text {

std::string RandomBytes(std::mt19937_64& random, size_t num_bytes) {
  std::string bytes;
  for (size_t i = 0; i < num_bytes; ++i) bytes.push_back(static_cast<char>(random()));
  return bytes;
}

std::string RandomUnicode(std::mt19937_64& random, size_t num_characters) {
  struct Range {
    char32_t first;
    char32_t last;
  };
  constexpr Range kRanges[] = {{'a', 'z'},       {'a', 'z'},       {'a', 'z'},       {'A', 'Z'},
                               {'0', '9'},       {' ', ' '},       {' ', ' '},       {'\t', '\r'},
                               {'!', '/'},       {0xA0, 0xFF},     {0x0300, 0x036F}, {0x0400, 0x044F},
                               {0x2000, 0x200F}, {0x4E00, 0x4FFF}, {0xAC00, 0xAFFF}, {0x1F600, 0x1F64F},
                               {0x0660, 0x0669}, {0x2150, 0x218B}, {0x0, 0x10FFFF}};
  std::string text;
  for (size_t i = 0; i < num_characters; ++i) {
    const Range range = kRanges[random() % std::size(kRanges)];
    // A run of the same kind at times, so that long words and long whitespace come up.
    const size_t run = random() % 8 == 0 ? random() % 20 : 1;
    for (size_t j = 0; j < run; ++j) {
      char32_t c = range.first + static_cast<char32_t>(random() % (range.last - range.first + 1));
      if (c >= 0xD800 && c <= 0xDFFF) c = 'x';
      AppendUtf8(c, &text);
    }
  }
  return text;
}

}  // namespace outrider::text
