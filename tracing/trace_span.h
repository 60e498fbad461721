// TraceSpan is a stretch of a request's time with a name, as it is told to a collector of OpenTelemetry traces.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/trace_context.h"

namespace outrider {

// Names are constants; values that are texts may hold anything, and are cut and mended on their way out.
struct SpanAttribute {
  using Value = std::variant<bool, int64_t, double, std::string, std::vector<std::string>>;
  template <typename T>
  SpanAttribute(const char* name, T&& value) : name(name), value(std::forward<T>(value)) {}
  const char* name;
  Value value;
};

enum class SpanKind : uint8_t { kInternal, kServer, kClient };

struct TraceSpan {
  TraceId trace;
  SpanId id = 0;
  SpanId parent = 0;              // 0: none
  bool parent_is_remote = false;  // it is another process's
  SpanKind kind = SpanKind::kInternal;
  std::string name;
  int64_t start_unix_ns = 0;
  int64_t end_unix_ns = 0;
  std::vector<SpanAttribute> attributes;
  bool failed = false;
  std::string error;  // if it failed
};

// Takes spans that have ended. Never blocks; what can not be taken is dropped and counted.
//
// Thread safety: all methods, from any thread.
class SpanSink {
 public:
  virtual ~SpanSink() = default;
  // All of them or none.
  virtual void Add(std::vector<TraceSpan> spans) = 0;
};

// The wall clock's time of a TimePoint, by a difference that is read once: times that one of these gives keep their
// order, also where the wall clock is set meanwhile.
class WallClock {
 public:
  WallClock() : WallClock(std::chrono::steady_clock::now(), std::chrono::system_clock::now()) {}
  // They are the same moment.
  WallClock(TimePoint steady, std::chrono::system_clock::time_point wall)
      : offset_ns_(Nanos(wall.time_since_epoch()) - Nanos(steady.time_since_epoch())) {}

  int64_t UnixNanos(TimePoint time) const { return Nanos(time.time_since_epoch()) + offset_ns_; }

 private:
  template <typename D>
  static int64_t Nanos(D duration) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
  }
  int64_t offset_ns_;
};

}  // namespace outrider
