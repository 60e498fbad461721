// RetryBudget bounds how many attempts a router sends again: a token bucket over the whole cluster. Without it, a
// cluster that loses groups under load spends what is left on repeating itself.
//
// A replay that finds no token waits for one; it is not given up, since its client has tokens already.
//
// Thread safety: none. Pure.
#pragma once

#include "base/clock.h"

namespace outrider::router {

class RetryBudget {
 public:
  struct Options {
    double burst = 256;      // at once; at least 1
    double per_second = 32;  // afterwards; above 0
  };
  explicit RetryBudget(const Options& options) : options_(options), tokens_(options.burst) {}

  // Takes one, if there is one. REQUIRES: `now` never goes back.
  bool TryTake(TimePoint now);
  // When the next one is there; `now` if one is.
  TimePoint NextAt(TimePoint now);

 private:
  void Refill(TimePoint now);

  const Options options_;
  double tokens_;
  bool refilled_ = false;
  TimePoint refilled_at_{};
};

}  // namespace outrider::router
