// Time as an argument: everything that waits or measures asks a Clock, so that tests and simulations own it.
#pragma once

#include <chrono>

namespace outrider {

// Monotonic; the zero point means nothing.
using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::steady_clock::duration;

inline double ToMillis(Duration d) { return std::chrono::duration<double, std::milli>(d).count(); }
inline Duration FromMillis(double ms) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double, std::milli>(ms));
}

// Thread safety: Now() from any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint Now() const = 0;
};

class SystemClock final : public Clock {
 public:
  TimePoint Now() const override { return std::chrono::steady_clock::now(); }
};

// Stands still until told. For tests and simulations.
class ManualClock final : public Clock {
 public:
  TimePoint Now() const override { return now_; }
  void Advance(Duration d) { now_ += d; }

 private:
  TimePoint now_{};
};

}  // namespace outrider
