#include "worker/speculation/acceptance_stats.h"

#include <algorithm>
#include <cmath>

namespace outrider {

double AcceptanceStats::WeightAt(TimePoint now) const {
  return now <= updated_ ? 1 : std::exp2(-ToMillis(now - updated_) / kHalfLifeMs);
}

void AcceptanceStats::Observe(int num_draft_tokens, int num_accepted, TimePoint now) {
  const double weight = WeightAt(now) * kDecay;
  updated_ = now;
  for (Position& position : positions_) position.reached *= weight, position.accepted *= weight;
  // The first rejected one was reached; those after it were not.
  const int num_reached = std::min({num_draft_tokens, num_accepted + 1, kMaxLookahead});
  for (int i = 0; i < num_reached; ++i) {
    positions_[i].reached += 1;
    positions_[i].accepted += i < num_accepted;
  }
}

double AcceptanceStats::Rate(int index, double prior, TimePoint now) const {
  const double weight = WeightAt(now);
  const Position& position = positions_[std::min(index, kMaxLookahead - 1)];
  return (weight * position.accepted + kPriorRounds * prior) / (weight * position.reached + kPriorRounds);
}

void AcceptanceStats::Rates(const AcceptanceStats& sequence, const AcceptanceStats& source, TimePoint now, int count,
                            double* rates) {
  double source_rate = kPriorRate;
  for (int i = 0; i < count; ++i) {
    source_rate = source.Rate(i, source_rate, now);
    rates[i] = sequence.Rate(i, source_rate, now);
  }
}

}  // namespace outrider
