#include "worker/speculation/lookahead_policy.h"

#include <algorithm>

namespace outrider {
namespace {

// Bounds that are tried; between them the curve is smooth enough.
constexpr int kGrid[] = {0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32};
constexpr int kGridSize = sizeof(kGrid) / sizeof(kGrid[0]);

// Share of the longest wait that a draft may be expected to take: half of them come later than expected.
constexpr double kWaitShare = 0.8;

// Draft rows tried at first, when only single rows were measured.
constexpr int kRowsFirstTried = 3;

// Expected accepted tokens and draft rows of all candidates of a kind, by bound.
struct Sums {
  double accepted[kGridSize] = {};
  int rows[kGridSize] = {};
  int count = 0;
};

}  // namespace

LookaheadChoice ChooseLookaheads(const LookaheadBatch& batch) {
  const int num_candidates = static_cast<int>(batch.candidates.size());
  LookaheadChoice choice;
  choice.asks.assign(num_candidates, 0);
  choice.lookaheads.assign(num_candidates, 0);
  if (num_candidates == 0) return choice;

  Sums waiting, free;
  for (const LookaheadCandidate& candidate : batch.candidates) {
    Sums& sums = candidate.waits ? waiting : free;
    sums.count += candidate.lookahead_max > 0;
    double chance = 1, expected = 0;
    int k = 0;
    for (int i = 0; i < kGridSize; ++i) {
      for (; k < std::min(kGrid[i], candidate.lookahead_max); ++k) expected += chance *= candidate.rates[k];
      sums.accepted[i] += expected;
      sums.rows[i] += k;
    }
  }

  const int num_plain_rows = num_candidates + batch.num_other_rows;
  const int num_unwaiting = num_plain_rows - waiting.count;
  // Twice as many rows as were measured are tried. While no step of twice the plain rows was, more are hoped to be
  // free.
  const int most_rows = std::max(num_plain_rows, batch.cost->most_rows());
  const int num_rows_max = 2 * most_rows + kRowsFirstTried;
  const int num_priced_rows = most_rows >= 2 * num_plain_rows ? num_rows_max : most_rows;
  // Before anything was measured a step is taken to last as long as a draft may be waited for.
  const auto cost_ms = [&](int num_rows) {
    return batch.cost->known() ? batch.cost->EstimateMs(std::min(num_rows, num_priced_rows)) : batch.wait_ms_max;
  };
  const auto value = [&](int i, int j) {
    const int num_rows = num_plain_rows + waiting.rows[i] + free.rows[j];
    const double step_ms = std::max(cost_ms(num_rows), 1e-6);
    const double tokens = num_plain_rows + waiting.accepted[i] + free.accepted[j];
    if (i == 0) return tokens / step_ms;
    const double wait_ms = batch.latency_ms[kGrid[i]];
    if (num_unwaiting == 0) return tokens / (wait_ms + step_ms);
    // Those that do not wait run a step of their own meanwhile.
    const double other_ms = cost_ms(num_unwaiting + free.rows[j]);
    return (tokens + num_unwaiting + free.accepted[j]) / (std::max(wait_ms, other_ms) + step_ms);
  };
  choice.tokens_per_ms = choice.tokens_per_ms_plain = value(0, 0);
  int best_waiting = 0, best_free = 0;
  for (int i = 0; i < kGridSize; ++i) {
    if (i > 0 && (waiting.count == 0 || batch.latency_ms[kGrid[i]] > kWaitShare * batch.wait_ms_max)) break;
    for (int j = 0; j < (free.count == 0 ? 1 : kGridSize); ++j) {
      if (num_plain_rows + waiting.rows[i] + free.rows[j] > num_rows_max) break;
      const double tokens_per_ms = value(i, j);
      if (tokens_per_ms < kLookaheadGainMin * choice.tokens_per_ms_plain || tokens_per_ms <= choice.tokens_per_ms) {
        continue;
      }
      choice.tokens_per_ms = tokens_per_ms;
      best_waiting = i, best_free = j;
    }
  }

  // A row pays if its chance is worth more than the batch's tokens in the time it takes.
  const int num_rows = num_plain_rows + waiting.rows[best_waiting] + free.rows[best_free];
  const double row_ms = cost_ms(num_rows + 1) - cost_ms(num_rows);
  const double chance_min = std::max(0.0, row_ms) * choice.tokens_per_ms;
  for (int c = 0; c < num_candidates; ++c) {
    const LookaheadCandidate& candidate = batch.candidates[c];
    const int bound = std::min(kGrid[candidate.waits ? best_waiting : best_free], candidate.lookahead_max);
    double chance = 1;
    int& lookahead = choice.lookaheads[c];
    while (lookahead < bound && (chance *= candidate.rates[lookahead]) >= chance_min) ++lookahead;
    choice.asks[c] = lookahead == 0 ? 0 : bound;
  }
  return choice;
}

}  // namespace outrider
