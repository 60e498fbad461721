// ServiceRate measures how fast the cluster works off its queue, so that a request that would wait in vain is refused
// when it comes and not when its time is over.
//
// Only time in which somebody waits counts: an idle cluster's rate says nothing about what it could do. Both figures
// are means that forget with a half-life of kHalfLife.
//
// Thread safety: none. Pure.
#pragma once

#include <cstdint>
#include <optional>

#include "base/clock.h"

namespace outrider::router {

class ServiceRate {
 public:
  static constexpr Duration kHalfLife = std::chrono::seconds(5);
  // Nothing is said of a rate that was measured for less, or from fewer requests within what is remembered: short ones
  // end first, and a cluster that stands still for a moment does not serve at a crawl.
  static constexpr Duration kMeasuredMin = std::chrono::milliseconds(500);
  static constexpr double kServedMin = 8;

  // From now on somebody waits, or nobody does. REQUIRES, here and below: `now` never goes back.
  void SetBusy(bool busy, TimePoint now);
  // A request, or a lane of one, was served: it weighed so many tokens in the queue. `served_in`: from start to end.
  void Served(int64_t num_tokens, Duration served_in, TimePoint now);

  // Tokens of the queue a second. Before enough was measured while somebody waits, what `num_places` would do if each
  // served one request after another as long as the mean; nothing if none was served yet either.
  std::optional<double> TokensPerSecond(int64_t num_places, TimePoint now);
  // From a request's start to its end, in the mean; 0 if none has ended yet.
  Duration MeanServiceTime() const {
    return num_served_ > 0 ? FromMillis(service_ms_ / num_served_) : Duration::zero();
  }

 private:
  void Advance(TimePoint now);

  bool busy_ = false;
  TimePoint advanced_to_{};
  double busy_seconds_ = 0;
  double busy_tokens_ = 0;
  double busy_served_ = 0;
  double num_served_ = 0;
  double service_ms_ = 0;
  double served_tokens_ = 0;
};

}  // namespace outrider::router
