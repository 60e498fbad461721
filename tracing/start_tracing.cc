#include "tracing/start_tracing.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "tracing/otlp_endpoint.h"
#include "tracing/trace_exporter.h"

namespace outrider {

absl::StatusOr<std::unique_ptr<Tracer>> StartTracing(const std::string& endpoint, double sample_ratio,
                                                     TraceResource resource, MetricsRegistry& registry) {
  TraceMetrics metrics(registry);
  if (!(sample_ratio >= 0 && sample_ratio <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("otlp_sample_ratio = ", sample_ratio, " must be from 0 (no request) to 1 (all)"));
  }
  if (endpoint.empty()) return std::unique_ptr<Tracer>();
  ASSIGN_OR_RETURN(OtlpEndpoint parsed, ParseOtlpEndpoint(endpoint));
  if (resource.instance.empty()) {
    char host[256] = "";
    ::gethostname(host, sizeof(host) - 1);
    resource.instance = absl::StrCat(host, ":", ::getpid());
  }
  return std::make_unique<Tracer>(
      std::make_unique<TraceExporter>(
          TraceExporter::Options{.endpoint = std::move(parsed), .resource = std::move(resource)}, metrics),
      sample_ratio);
}

}  // namespace outrider
