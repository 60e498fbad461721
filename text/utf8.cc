#include "text/utf8.h"

#include <cstring>

namespace outrider::text {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// How many continuation bytes follow `lead`, and which values the first of them may have: the rest of the Unicode
// standard's table 3-7. -1: no character begins so.
struct Lead {
  int num_continuations;
  uint8_t first_min;
  uint8_t first_max;
};

Lead ClassifyLead(uint8_t lead) {
  if (lead < 0x80) return {0, 0, 0};
  if (lead < 0xC2) return {-1, 0, 0};
  if (lead < 0xE0) return {1, 0x80, 0xBF};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};
  if (lead == 0xED) return {2, 0x80, 0x9F};  // no surrogates
  if (lead < 0xF0) return {2, 0x80, 0xBF};
  if (lead == 0xF0) return {3, 0x90, 0xBF};
  if (lead < 0xF4) return {3, 0x80, 0xBF};
  if (lead == 0xF4) return {3, 0x80, 0x8F};
  return {-1, 0, 0};
}

}  // namespace

Utf8Step DecodeUtf8(absl::string_view bytes) {
  const uint8_t lead = static_cast<uint8_t>(bytes[0]);
  const Lead rule = ClassifyLead(lead);
  if (rule.num_continuations < 0) return {Utf8Step::Kind::kInvalid, 1, kReplacement};
  if (rule.num_continuations == 0) return {Utf8Step::Kind::kCharacter, 1, lead};
  char32_t code_point = lead & (0x3F >> rule.num_continuations);
  for (int i = 1; i <= rule.num_continuations; ++i) {
    if (static_cast<size_t>(i) == bytes.size()) {
      return {Utf8Step::Kind::kTruncated, static_cast<uint8_t>(i), kReplacement};
    }
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t min = i == 1 ? rule.first_min : 0x80;
    const uint8_t max = i == 1 ? rule.first_max : 0xBF;
    if (byte < min || byte > max) return {Utf8Step::Kind::kInvalid, static_cast<uint8_t>(i), kReplacement};
    code_point = code_point << 6 | (byte & 0x3F);
  }
  return {Utf8Step::Kind::kCharacter, static_cast<uint8_t>(rule.num_continuations + 1), code_point};
}

std::optional<size_t> FirstInvalidUtf8(absl::string_view bytes) {
  size_t i = 0;
  while (i < bytes.size()) {
    // Eight ASCII bytes at a time.
    uint64_t word;
    while (i + sizeof(word) <= bytes.size()) {
      std::memcpy(&word, bytes.data() + i, sizeof(word));
      if ((word & 0x8080808080808080u) != 0) break;
      i += sizeof(word);
    }
    if (i == bytes.size()) break;
    const Utf8Step step = DecodeUtf8(bytes.substr(i));
    if (step.kind != Utf8Step::Kind::kCharacter) return i;
    i += step.num_bytes;
  }
  return std::nullopt;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) code_point = kReplacement;
  const auto append = [out](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    append(code_point);
  } else if (code_point < 0x800) {
    append(0xC0 | code_point >> 6);
    append(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    append(0xE0 | code_point >> 12);
    append(0x80 | (code_point >> 6 & 0x3F));
    append(0x80 | (code_point & 0x3F));
  } else {
    append(0xF0 | code_point >> 18);
    append(0x80 | (code_point >> 12 & 0x3F));
    append(0x80 | (code_point >> 6 & 0x3F));
    append(0x80 | (code_point & 0x3F));
  }
}

std::string ReplaceInvalidUtf8(absl::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t num_valid = FirstInvalidUtf8(bytes).value_or(bytes.size());
    out.append(bytes.data(), num_valid);
    bytes.remove_prefix(num_valid);
    if (bytes.empty()) break;
    AppendUtf8(kReplacement, &out);
    bytes.remove_prefix(DecodeUtf8(bytes).num_bytes);
  }
  return out;
}

}  // namespace outrider::text
