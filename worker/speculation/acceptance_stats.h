// AcceptanceStats: how often the draft token at position i of a draft is accepted when those before it were. Old rounds
// fade, by newer rounds and by time; what has faded gives way to the prior, so a source that did badly is tried again.
//
// Thread safety: none.
#pragma once

#include <array>

#include "base/clock.h"
#include "worker/step/draft_offer.h"  // kMaxLookahead

namespace outrider {

class AcceptanceStats {
 public:
  // A round verified num_draft_tokens and accepted the first num_accepted.
  void Observe(int num_draft_tokens, int num_accepted, TimePoint now);

  // Rate at draft position `index` (from 0), given acceptance of those before. `prior` counts as kPriorRounds rounds.
  double Rate(int index, double prior, TimePoint now) const;

  // Rates of a sequence within those of its source, for positions [0, count) into `rates`: each position's prior is the
  // source's rate, and the source's prior is its rate one position before.
  static void Rates(const AcceptanceStats& sequence, const AcceptanceStats& source, TimePoint now, int count,
                    double* rates);

  // What is believed of a source before anything was seen. Hopeful, so that it is tried.
  static constexpr double kPriorRate = 0.6;
  static constexpr double kPriorRounds = 4;

 private:
  // Share of its weight that a round keeps when the next comes: the last 50 rounds or so count.
  static constexpr double kDecay = 0.98;
  // Weight halves in this time: 50 bad rounds weigh no more than the prior after two minutes.
  static constexpr double kHalfLifeMs = 30000;

  double WeightAt(TimePoint now) const;

  struct Position {
    double reached = 0;
    double accepted = 0;
  };
  std::array<Position, kMaxLookahead> positions_;
  TimePoint updated_{};
};

}  // namespace outrider
