// When to start a unit again that ended: soon at first, then later and later while it keeps ending before it was well
// for a while. Pure.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace outrider {

inline constexpr Duration kRestartDelayMin = std::chrono::milliseconds(100);
inline constexpr Duration kRestartDelayMax = std::chrono::seconds(5);
// A unit that was well for so long begins at the least delay again.
inline constexpr Duration kRestartForgiveAfter = std::chrono::seconds(10);

class RestartPolicy {
 public:
  // Delays are drawn by `seed`, so that units that end together do not all come back at once.
  explicit RestartPolicy(uint64_t seed = 0) : random_(seed) {}

  // The unit was well from `well_since` on (now: never) and ended at `now`: how long to wait before the next start.
  // Between half and all of the delay that its ends in a row make: kRestartDelayMin doubled each time, at most
  // kRestartDelayMax.
  Duration OnExit(TimePoint well_since, TimePoint now);

  // Ends in a row, each before kRestartForgiveAfter of being well.
  int num_early_exits() const { return num_early_exits_; }

 private:
  int num_early_exits_ = 0;
  uint64_t random_;
};

}  // namespace outrider
