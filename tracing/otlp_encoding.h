// TraceSpan -> the wire of OTLP. Texts are mended where they are no UTF-8, which a collector refuses a whole batch for,
// and cut to kMaxTextBytes. Pure.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/otlp.pb.h"
#include "tracing/trace_span.h"

namespace outrider {

namespace otlp = ::opentelemetry::proto::collector::trace::v1;

inline constexpr size_t kMaxTextBytes = 512;

// Who records: a process of the cluster.
struct TraceResource {
  std::string service;   // service.name
  std::string instance;  // service.instance.id
};

void SpansToOtlp(const TraceResource& resource, absl::Span<const TraceSpan> spans,
                 otlp::ExportTraceServiceRequest* request);

// `text` with U+FFFD for each byte that is not of a character, at most kMaxTextBytes, cut between characters.
std::string MendText(absl::string_view text);

}  // namespace outrider
