// Appends JSON to a string: what answers are made of, whose shapes are known.
//
// Thread safety: pure functions.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace outrider::router {

// With quotes. `text` is UTF-8, which goes out as it is; only what JSON must escape is escaped.
inline void AppendJsonString(absl::string_view text, std::string* out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out->push_back('"');
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) continue;
    out->append(text.data() + begin, i - begin);
    begin = i + 1;
    switch (c) {
      case '"':
        out->append("\\\"");
        break;
      case '\\':
        out->append("\\\\");
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      case '\t':
        out->append("\\t");
        break;
      default:
        out->append("\\u00");
        out->push_back(kHex[c >> 4]);
        out->push_back(kHex[c & 15]);
    }
  }
  out->append(text.data() + begin, text.size() - begin);
  out->push_back('"');
}

// The shortest text that reads back as `number`. JSON has no infinities: they are -9999 and 9999, as vLLM has it; NaN
// is null.
inline void AppendJsonNumber(float number, std::string* out) {
  if (std::isnan(number)) {
    out->append("null");
    return;
  }
  if (std::isinf(number)) number = number < 0 ? -9999.0f : 9999.0f;
  char text[32];
  const auto result = std::to_chars(text, text + sizeof(text), number);
  out->append(text, result.ptr - text);
}
inline void AppendJsonNumber(double number, std::string* out) {
  if (!std::isfinite(number)) {
    out->append("null");
    return;
  }
  char text[40];
  const auto result = std::to_chars(text, text + sizeof(text), number);
  out->append(text, result.ptr - text);
}
inline void AppendJsonNumber(int64_t number, std::string* out) { out->append(std::to_string(number)); }

// `"name":`, after a comma unless it is the first of its object or array.
inline void AppendJsonKey(absl::string_view name, std::string* out) {
  if (!out->empty() && out->back() != '{' && out->back() != '[' && out->back() != ' ') out->push_back(',');
  out->push_back('"');
  out->append(name.data(), name.size());
  out->append("\":");
}

}  // namespace outrider::router
