#include "base/trace_context.h"

#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

// version "-" trace-id "-" parent-id "-" trace-flags
constexpr size_t kTraceAt = 3;
constexpr size_t kSpanAt = 36;
constexpr size_t kFlagsAt = 53;
constexpr size_t kSize = 55;
constexpr uint64_t kSampledFlag = 1;

// Lower-case digits only: the standard takes no others. False if one is none.
bool ParseHex(absl::string_view digits, uint64_t* value) {
  *value = 0;
  for (const char c : digits) {
    uint64_t digit;
    if (c >= '0' && c <= '9') {
      digit = static_cast<uint64_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<uint64_t>(c - 'a') + 10;
    } else {
      return false;
    }
    *value = *value << 4 | digit;
  }
  return true;
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(absl::string_view value) {
  if (value.size() < kSize || value[kTraceAt - 1] != '-' || value[kSpanAt - 1] != '-' || value[kFlagsAt - 1] != '-') {
    return std::nullopt;
  }
  uint64_t version;
  uint64_t flags;
  TraceContext context;
  if (!ParseHex(value.substr(0, 2), &version) || !ParseHex(value.substr(kTraceAt, 16), &context.trace.high) ||
      !ParseHex(value.substr(kTraceAt + 16, 16), &context.trace.low) ||
      !ParseHex(value.substr(kSpanAt, 16), &context.span) || !ParseHex(value.substr(kFlagsAt, 2), &flags)) {
    return std::nullopt;
  }
  if (version == 0xff || (version == 0 && value.size() != kSize)) return std::nullopt;
  if (value.size() > kSize && value[kSize] != '-') return std::nullopt;
  if (!context.trace || context.span == 0) return std::nullopt;
  context.sampled = (flags & kSampledFlag) != 0;
  return context;
}

std::string FormatTraceparent(const TraceContext& context) {
  return absl::StrCat("00-", ToHex(context.trace), "-", SpanIdToHex(context.span), context.sampled ? "-01" : "-00");
}

std::string ToHex(const TraceId& id) {
  return absl::StrCat(absl::Hex(id.high, absl::kZeroPad16), absl::Hex(id.low, absl::kZeroPad16));
}

std::string SpanIdToHex(SpanId id) { return absl::StrCat(absl::Hex(id, absl::kZeroPad16)); }

}  // namespace outrider
