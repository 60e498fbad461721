#include "base/token_bucket.h"

#include <algorithm>
#include <cmath>

namespace outrider {

void TokenBucket::Refill(TimePoint now) {
  if (refilled_) {
    tokens_ = std::min(options_.burst, tokens_ + options_.per_second * ToMillis(now - refilled_at_) / 1000);
  }
  refilled_ = true;
  refilled_at_ = now;
}

bool TokenBucket::TryTake(TimePoint now) {
  Refill(now);
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

void TokenBucket::Take(int64_t amount, TimePoint now) {
  Refill(now);
  tokens_ -= static_cast<double>(amount);
}

TimePoint TokenBucket::NextAt(TimePoint now, double amount) {
  Refill(now);
  if (tokens_ >= amount) return now;
  // Rounded up to a whole ms: asked then, they are there.
  return now + std::chrono::milliseconds(
                   static_cast<int64_t>(std::ceil((amount - tokens_) * 1000 / options_.per_second)) + 1);
}

void TokenBucket::SetOptions(const Options& options, TimePoint now) {
  Refill(now);
  tokens_ = std::min(options.burst, tokens_ + options.burst - options_.burst);
  options_ = options;
}

}  // namespace outrider
