// The tracer of a process, as its settings want it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/metrics.h"
#include "tracing/otlp_encoding.h"
#include "tracing/tracer.h"

namespace outrider {

// Null without `endpoint` (otlp_endpoint): nothing is recorded. The metrics are there in any case. INVALID_ARGUMENT for
// an endpoint or a `sample_ratio` (otlp_sample_ratio) that is none. A collector need not be there. Without
// `resource.instance` that is this machine's name and this process's number.
absl::StatusOr<std::unique_ptr<Tracer>> StartTracing(const std::string& endpoint, double sample_ratio,
                                                     TraceResource resource, MetricsRegistry& registry);

}  // namespace outrider
