// When to start a unit again that ended: at once at first, then later and later while it keeps ending early. Pure.
#pragma once

#include "base/clock.h"

namespace outrider {

inline constexpr Duration kRestartDelayMin = std::chrono::milliseconds(100);
inline constexpr Duration kRestartDelayMax = std::chrono::seconds(5);
// A unit that lived so long begins at the least delay again.
inline constexpr Duration kRestartForgiveAfter = std::chrono::seconds(10);

class RestartPolicy {
 public:
  // The unit started at `started` and ended at `now`: how long to wait before the next start.
  Duration OnExit(TimePoint started, TimePoint now);

  // Ends in a row, each within kRestartForgiveAfter of its start.
  int num_early_exits() const { return num_early_exits_; }

 private:
  int num_early_exits_ = 0;
};

}  // namespace outrider
