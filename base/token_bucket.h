// TokenBucket: a rate with bursts. It holds up to `burst` tokens, full at first, and gets `per_second` of them.
//
// Thread safety: none. Pure. REQUIRES of all methods: `now` never goes back.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace outrider {

class TokenBucket {
 public:
  struct Options {
    double burst = 256;      // at once; at least 1
    double per_second = 32;  // afterwards; above 0
  };
  explicit TokenBucket(const Options& options) : options_(options), tokens_(options.burst) {}

  // Takes one, if there is one.
  bool TryTake(TimePoint now);
  // Takes so many whether they are there or not: what it lacks then has to come before anything else.
  void Take(int64_t amount, TimePoint now);
  // When so many are there; `now` if they are. REQUIRES: amount <= burst.
  TimePoint NextAt(TimePoint now, double amount = 1);
  // Another rate from now on; what was taken stays taken.
  void SetOptions(const Options& options, TimePoint now);

 private:
  void Refill(TimePoint now);

  Options options_;
  double tokens_;
  bool refilled_ = false;
  TimePoint refilled_at_{};
};

}  // namespace outrider
