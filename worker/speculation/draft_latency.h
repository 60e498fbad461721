// DraftLatency: how long a source takes from a commit to its proposal, by the lookahead asked. Lookaheads not measured
// are scaled from the nearest that was, one token of work beside the draft itself.
//
// Thread safety: none.
#pragma once

#include <array>

#include "worker/step/draft_offer.h"  // kMaxLookahead

namespace outrider {

class DraftLatency {
 public:
  void Observe(int lookahead, double milliseconds);
  bool known() const { return known_; }
  // 0 before anything was measured.
  double EstimateMs(int lookahead) const;

 private:
  struct Average {
    double milliseconds = 0;
    bool known = false;
  };
  std::array<Average, kMaxLookahead + 1> averages_;
  bool known_ = false;
};

}  // namespace outrider
