#include "cli/restart_policy.h"

#include <algorithm>

namespace outrider {

Duration RestartPolicy::OnExit(TimePoint started, TimePoint now) {
  if (now - started >= kRestartForgiveAfter) num_early_exits_ = 0;
  ++num_early_exits_;
  Duration delay = kRestartDelayMin;
  for (int i = 1; i < num_early_exits_ && delay < kRestartDelayMax; ++i) delay *= 2;
  return std::min(delay, kRestartDelayMax);
}

}  // namespace outrider
