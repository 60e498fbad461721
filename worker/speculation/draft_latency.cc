#include "worker/speculation/draft_latency.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace outrider {

int DraftLatency::GroupOf(int num_sequences) {
  return std::min(static_cast<int>(std::bit_width(static_cast<unsigned>(std::max(num_sequences, 1) - 1))),
                  kNumGroups - 1);
}

void DraftLatency::Observe(int lookahead, int num_sequences, double milliseconds, TimePoint now) {
  if (lookahead < 1 || lookahead > kMaxLookahead || !(milliseconds >= 0) || !std::isfinite(milliseconds)) return;
  Average& average = averages_[GroupOf(num_sequences)][lookahead];
  // One interruption does not make a source slow.
  if (average.known) milliseconds = std::min(milliseconds, 2 * average.milliseconds + 0.5);
  average.milliseconds += (average.known ? kWeight : 1) * (milliseconds - average.milliseconds);
  average.updated = now;
  average.known = true;
}

double DraftLatency::EstimateMs(int lookahead, int num_sequences, TimePoint now) const {
  const int group = GroupOf(num_sequences);
  // Nearest group first, then nearest lookahead. A draft of k tokens is k draft steps and about one of overhead. Half
  // as many sequences take less time, more are hoped to take no longer: what is not tried is not known.
  const Average* best = nullptr;
  double best_distance = 0, best_scale = 1;
  for (int g = 0; g < kNumGroups; ++g) {
    for (int k = 1; k <= kMaxLookahead; ++k) {
      const Average& average = averages_[g][k];
      if (!average.known) continue;
      const double distance = std::abs(g - group) * (kMaxLookahead + 1) + std::abs(k - lookahead);
      if (best != nullptr && distance >= best_distance) continue;
      best = &average;
      best_distance = distance;
      best_scale = (1.0 + lookahead) / (1.0 + k) * (g > group ? std::pow(1.5, group - g) : 1.0);
    }
  }
  if (best == nullptr) return 0;
  const double age_ms = std::max(0.0, ToMillis(now - best->updated));
  return best->milliseconds * best_scale * std::exp2(-age_ms / kHalfLifeMs);
}

}  // namespace outrider
