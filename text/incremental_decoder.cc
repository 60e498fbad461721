#include "text/incremental_decoder.h"

#include <cstring>

#include "text/utf8.h"

namespace outrider::text {

void Utf8Assembler::Push(absl::string_view bytes, std::string* out) {
  if (bytes.empty()) return;
  std::string joined;
  if (num_pending_ > 0) {
    joined.reserve(num_pending_ + bytes.size());
    joined.append(reinterpret_cast<const char*>(pending_), num_pending_);
    joined.append(bytes.data(), bytes.size());
    bytes = joined;
    num_pending_ = 0;
  }
  while (!bytes.empty()) {
    const size_t num_valid = FirstInvalidUtf8(bytes).value_or(bytes.size());
    out->append(bytes.data(), num_valid);
    bytes.remove_prefix(num_valid);
    if (bytes.empty()) return;
    const Utf8Step step = DecodeUtf8(bytes);
    if (step.kind == Utf8Step::Kind::kTruncated) {
      std::memcpy(pending_, bytes.data(), bytes.size());
      num_pending_ = static_cast<uint8_t>(bytes.size());
      return;
    }
    AppendUtf8(step.code_point, out);
    bytes.remove_prefix(step.num_bytes);
  }
}

void Utf8Assembler::Flush(std::string* out) {
  if (num_pending_ > 0) AppendUtf8(0xFFFD, out);
  num_pending_ = 0;
}

std::string IncrementalDecoder::Push(TokenId id) {
  std::string out;
  if (skip_special_tokens_ && tokenizer_->IsSpecial(id)) return out;
  assembler_.Push(tokenizer_->TokenBytes(id), &out);
  return out;
}

std::string IncrementalDecoder::Flush() {
  std::string out;
  assembler_.Flush(&out);
  return out;
}

}  // namespace outrider::text
