#include "tracing/tracer.h"

#include <random>

namespace outrider {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a bijection, so numbers that differ give ids that differ.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t FromSystem() {
  std::random_device source;
  return (uint64_t{source()} << 32) | source();
}

}  // namespace

bool IsSampled(const TraceId& id, double ratio) {
  if (ratio >= 1) return true;
  if (!(ratio > 0)) return false;
  return (id.low >> 1) < static_cast<uint64_t>(ratio * 9223372036854775808.0);
}

Tracer::Tracer(std::unique_ptr<SpanSink> sink, double sample_ratio, Seed seed)
    : sink_(std::move(sink)), sample_ratio_(sample_ratio), seed_(seed) {}

Tracer::Tracer(std::unique_ptr<SpanSink> sink, double sample_ratio)
    : Tracer(std::move(sink), sample_ratio, {FromSystem(), FromSystem()}) {}

TraceContext Tracer::Enter(const std::optional<TraceContext>& client) {
  if (client.has_value()) return *client;
  const uint64_t number = num_ids_.fetch_add(1, std::memory_order_relaxed);
  TraceContext context;
  // Both halves differ from those of every other: 0 in one is allowed.
  context.trace = {Mix(seed_.a + number), Mix(seed_.b + number)};
  if (!context.trace) context.trace.low = 1;
  context.sampled = IsSampled(context.trace, sample_ratio_);
  return context;
}

SpanId Tracer::NewSpanId() {
  const SpanId id = Mix((seed_.a ^ seed_.b) + num_ids_.fetch_add(1, std::memory_order_relaxed));
  return id != 0 ? id : NewSpanId();
}

}  // namespace outrider
