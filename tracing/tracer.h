// Tracer is what a process needs to record spans: ids, the choice of which requests are recorded, and the sink.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/trace_context.h"
#include "tracing/trace_span.h"

namespace outrider {

class Tracer {
 public:
  // Of requests that bring no trace, `sample_ratio` are recorded: 0 none, 1 all. Ids are unlike those of any tracer
  // with another seed.
  struct Seed {
    uint64_t a;
    uint64_t b;
  };
  Tracer(std::unique_ptr<SpanSink> sink, double sample_ratio, Seed seed);
  // With a seed from the operating system.
  Tracer(std::unique_ptr<SpanSink> sink, double sample_ratio);

  // The trace that a request belongs to: the client's, which says whether it is recorded, or a new one of its own.
  TraceContext Enter(const std::optional<TraceContext>& client);
  SpanId NewSpanId();
  void Record(std::vector<TraceSpan> spans) { sink_->Add(std::move(spans)); }

 private:
  const std::unique_ptr<SpanSink> sink_;
  const double sample_ratio_;
  const Seed seed_;
  std::atomic<uint64_t> num_ids_{0};
};

// Whether a trace is among the `ratio` that is recorded: by its id alone, so that all who ask agree. As OpenTelemetry's
// TraceIdRatioBased.
bool IsSampled(const TraceId& id, double ratio);

}  // namespace outrider
