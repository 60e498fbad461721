// DraftLatency: how long a source takes from a commit to its proposal, by the lookahead asked and by how many sequences
// asked together. What was not measured is scaled from the nearest that was; what was measured long ago is slowly
// believed less bad, so that a source that was too slow is tried again.
//
// Thread safety: none.
#pragma once

#include <array>

#include "base/clock.h"
#include "worker/step/draft_offer.h"  // kMaxLookahead

namespace outrider {

class DraftLatency {
 public:
  // REQUIRES: 1 <= lookahead <= kMaxLookahead, num_sequences >= 1.
  void Observe(int lookahead, int num_sequences, double milliseconds, TimePoint now);
  // 0 before anything was measured.
  double EstimateMs(int lookahead, int num_sequences, TimePoint now) const;

 private:
  static constexpr int kNumGroups = 8;  // 1, 2, 3-4, 5-8, ... sequences
  // Weight of a new measurement: the last five or so count.
  static constexpr double kWeight = 0.2;
  // An estimate halves in this time without a measurement.
  static constexpr double kHalfLifeMs = 30000;

  static int GroupOf(int num_sequences);

  struct Average {
    double milliseconds = 0;
    TimePoint updated{};
    bool known = false;
  };
  std::array<std::array<Average, kMaxLookahead + 1>, kNumGroups> averages_;
};

}  // namespace outrider
