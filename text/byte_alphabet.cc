#include "text/byte_alphabet.h"

#include <array>

#include "text/utf8.h"

namespace outrider::text {
namespace {

// Printable Latin-1 stands for itself, the other 68 bytes, in order, for U+0100 and on.
constexpr char32_t kFirstMoved = 0x100;
constexpr int kNumMoved = 68;

bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Tables {
  std::array<std::string, 256> to_alphabet;
  std::array<int16_t, kFirstMoved + kNumMoved> to_byte;

  Tables() {
    to_byte.fill(-1);
    char32_t next = kFirstMoved;
    for (int byte = 0; byte < 256; ++byte) {
      const char32_t code_point = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
      AppendUtf8(code_point, &to_alphabet[byte]);
      to_byte[code_point] = static_cast<int16_t>(byte);
    }
  }
};

const Tables& GetTables() {
  static const Tables* const tables = new Tables;
  return *tables;
}

}  // namespace

absl::string_view ByteToAlphabet(uint8_t byte) { return GetTables().to_alphabet[byte]; }

std::optional<std::string> AlphabetToBytes(absl::string_view text) {
  const Tables& tables = GetTables();
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    if (step.kind != Utf8Step::Kind::kCharacter || step.code_point >= tables.to_byte.size()) return std::nullopt;
    const int byte = tables.to_byte[step.code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    text.remove_prefix(step.num_bytes);
  }
  return bytes;
}

std::string BytesToAlphabet(absl::string_view bytes) {
  std::string out;
  for (const char byte : bytes) {
    const absl::string_view letter = ByteToAlphabet(static_cast<uint8_t>(byte));
    out.append(letter.data(), letter.size());
  }
  return out;
}

}  // namespace outrider::text
