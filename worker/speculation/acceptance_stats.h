// AcceptanceStats: how often the draft token at position i of a draft is accepted when those before it were, with old
// rounds fading. Positions never reached take the rate of the one before.
//
// Thread safety: none.
#pragma once

#include <array>

#include "worker/step/draft_offer.h"  // kMaxLookahead

namespace outrider {

class AcceptanceStats {
 public:
  // `prior` is what is believed before anything was seen, worth `prior_rounds` rounds.
  explicit AcceptanceStats(double prior = 0.6, double prior_rounds = 4) : prior_(prior), prior_rounds_(prior_rounds) {}

  // A round verified num_draft_tokens and accepted the first num_accepted.
  void Observe(int num_draft_tokens, int num_accepted);

  // Rate at draft position `index` (from 0), given acceptance of those before.
  double Rate(int index) const { return Rate(index, nullptr); }
  // The same with another's rates in place of the prior: a sequence's own within its source's.
  double Rate(int index, const AcceptanceStats* pooled) const;
  // Expected accepted tokens of a draft of `lookahead` tokens.
  double ExpectedAccepted(int lookahead, const AcceptanceStats* pooled = nullptr) const;

 private:
  // Share of its weight that a round keeps when the next comes: the last 50 rounds or so count.
  static constexpr double kDecay = 0.98;

  double prior_;
  double prior_rounds_;
  struct Position {
    double reached = 0;
    double accepted = 0;
  };
  std::array<Position, kMaxLookahead> positions_;
};

}  // namespace outrider
