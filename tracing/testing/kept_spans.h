// A sink of spans that keeps them, for tests.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/mutex.h"
#include "tracing/trace_span.h"
#include "tracing/tracer.h"

namespace outrider {

class KeptSpans {
 public:
  std::vector<TraceSpan> spans() const {
    MutexLock lock(kept_->mu);
    return kept_->spans;
  }
  // Those with this name, in the order that they came in.
  std::vector<TraceSpan> Named(const std::string& name) const {
    std::vector<TraceSpan> named;
    for (TraceSpan& span : spans()) {
      if (span.name == name) named.push_back(std::move(span));
    }
    return named;
  }
  // Its spans are kept here, also while this is gone.
  std::unique_ptr<SpanSink> MakeSink() { return std::make_unique<Sink>(kept_); }

 private:
  struct Kept {
    mutable Mutex mu;
    std::vector<TraceSpan> spans ABSL_GUARDED_BY(mu);
  };
  class Sink final : public SpanSink {
   public:
    explicit Sink(std::shared_ptr<Kept> kept) : kept_(std::move(kept)) {}
    void Add(std::vector<TraceSpan> spans) override {
      MutexLock lock(kept_->mu);
      std::move(spans.begin(), spans.end(), std::back_inserter(kept_->spans));
    }

   private:
    const std::shared_ptr<Kept> kept_;
  };
  const std::shared_ptr<Kept> kept_ = std::make_shared<Kept>();
};

// The value of an attribute; T() if the span has none of that name and type.
template <typename T>
T AttributeOf(const TraceSpan& span, const std::string& name) {
  for (const SpanAttribute& attribute : span.attributes) {
    if (attribute.name == name && std::holds_alternative<T>(attribute.value)) return std::get<T>(attribute.value);
  }
  return T();
}

}  // namespace outrider
