#include "router/service_rate.h"

#include <cmath>

namespace outrider::router {
namespace {

// Ends that count as half as much once as many more have come: the mean service time follows the last hundred or so.
constexpr double kServedKept = 0.99;

}  // namespace

void ServiceRate::Advance(TimePoint now) {
  if (busy_ && now > advanced_to_) {
    const double seconds = ToMillis(now - advanced_to_) / 1000;
    const double kept = std::exp2(-seconds * 1000 / ToMillis(kHalfLife));
    busy_seconds_ = busy_seconds_ * kept + seconds;
    busy_tokens_ *= kept;
    busy_served_ *= kept;
  }
  advanced_to_ = now;
}

void ServiceRate::SetBusy(bool busy, TimePoint now) {
  if (busy == busy_) return;
  Advance(now);
  busy_ = busy;
}

void ServiceRate::Served(int64_t num_tokens, Duration served_in, TimePoint now) {
  Advance(now);
  if (busy_) {
    busy_tokens_ += static_cast<double>(num_tokens);
    ++busy_served_;
  }
  num_served_ = num_served_ * kServedKept + 1;
  service_ms_ = service_ms_ * kServedKept + ToMillis(served_in);
  served_tokens_ = served_tokens_ * kServedKept + static_cast<double>(num_tokens);
}

std::optional<double> ServiceRate::TokensPerSecond(int64_t num_places, TimePoint now) {
  Advance(now);
  if (busy_seconds_ * 1000 >= ToMillis(kMeasuredMin) && busy_served_ >= kServedMin && busy_tokens_ > 0) {
    return busy_tokens_ / busy_seconds_;
  }
  if (num_places <= 0 || num_served_ < kServedMin || service_ms_ <= 0) return std::nullopt;
  return 1000 * static_cast<double>(num_places) * served_tokens_ / service_ms_;
}

}  // namespace outrider::router
