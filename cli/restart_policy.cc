#include "cli/restart_policy.h"

#include <algorithm>

namespace outrider {
namespace {

// SplitMix64 (Steele, Lea and Flood, 2014).
uint64_t NextRandom(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

Duration RestartPolicy::OnExit(TimePoint well_since, TimePoint now) {
  if (now - well_since >= kRestartForgiveAfter) num_early_exits_ = 0;
  ++num_early_exits_;
  Duration delay = kRestartDelayMin;
  for (int i = 1; i < num_early_exits_ && delay < kRestartDelayMax; ++i) delay *= 2;
  delay = std::min(delay, kRestartDelayMax);
  const double share = static_cast<double>(NextRandom(random_) >> 11) * 0x1p-53;  // [0, 1)
  return std::chrono::duration_cast<Duration>(delay * (0.5 + 0.5 * share));
}

}  // namespace outrider
