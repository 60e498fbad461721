#include "router/retry_budget.h"

#include <algorithm>
#include <cmath>

namespace outrider::router {

void RetryBudget::Refill(TimePoint now) {
  if (refilled_) {
    tokens_ = std::min(options_.burst, tokens_ + options_.per_second * ToMillis(now - refilled_at_) / 1000);
  }
  refilled_ = true;
  refilled_at_ = now;
}

bool RetryBudget::TryTake(TimePoint now) {
  Refill(now);
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

TimePoint RetryBudget::NextAt(TimePoint now) {
  Refill(now);
  if (tokens_ >= 1) return now;
  // Rounded up to a whole ms: asked then, the token is there.
  return now +
         std::chrono::milliseconds(static_cast<int64_t>(std::ceil((1 - tokens_) * 1000 / options_.per_second)) + 1);
}

}  // namespace outrider::router
