// Who asked, in the words of W3C Trace Context (https://www.w3.org/TR/trace-context/): the trace that a request belongs
// to and the span that it came from.
//
// Thread safety: pure functions and values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace outrider {

// 16 bytes, big end first. All zero: none.
struct TraceId {
  uint64_t high = 0;
  uint64_t low = 0;
  explicit operator bool() const { return (high | low) != 0; }
  friend bool operator==(const TraceId&, const TraceId&) = default;
};

// 8 bytes, big end first. 0: none.
using SpanId = uint64_t;

struct TraceContext {
  TraceId trace;
  SpanId span = 0;       // what is made here is a child of it
  bool sampled = false;  // spans are wanted
  friend bool operator==(const TraceContext&, const TraceContext&) = default;
};

// The value of a `traceparent` header; empty if it is none, which then counts as absent. Versions above 00 are read as
// the standard has it: by the fields of 00, whatever follows them after a dash.
std::optional<TraceContext> ParseTraceparent(absl::string_view value);
// As version 00.
std::string FormatTraceparent(const TraceContext& context);

// 32 and 16 lower-case digits, as logs and collectors show them.
std::string ToHex(const TraceId& id);
std::string SpanIdToHex(SpanId id);

}  // namespace outrider
