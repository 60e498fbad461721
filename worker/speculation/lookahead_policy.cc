#include "worker/speculation/lookahead_policy.h"

#include <algorithm>
#include <tuple>

namespace outrider {
namespace {

// Draft tokens to ask for that are tried; between them the curve is smooth enough.
constexpr int kGrid[] = {0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32};

// Share of the longest wait that a draft may be expected to take: half of them come later than expected.
constexpr double kWaitShare = 0.8;

// Draft rows tried at first, when only single rows were measured.
constexpr int kRowsFirstTried = 3;

// Rows with less chance are not looked at: a step is never so flat that many of them pay.
constexpr double kChanceMin = 0.02;

// A draft row that may be verified: token `position` of a candidate's draft.
struct DraftRow {
  double chance = 0;  // that it is accepted, which all before it must be
  int candidate = 0;
  int position = 0;
};

}  // namespace

LookaheadChoice ChooseLookaheads(const LookaheadBatch& batch) {
  const int num_candidates = static_cast<int>(batch.candidates.size());
  LookaheadChoice choice;
  choice.asks.assign(num_candidates, 0);
  choice.lookaheads.assign(num_candidates, 0);
  if (num_candidates == 0) return choice;

  // By chance; of one candidate each after the one before.
  std::vector<DraftRow> draft_rows;
  int num_waiting = 0, num_free = 0;
  for (int c = 0; c < num_candidates; ++c) {
    const LookaheadCandidate& candidate = batch.candidates[c];
    if (candidate.lookahead_max > 0) ++(candidate.waits ? num_waiting : num_free);
    double chance = 1;
    for (int k = 0; k < candidate.lookahead_max && (chance *= candidate.rates[k]) >= kChanceMin; ++k) {
      draft_rows.push_back({chance, c, k});
    }
  }
  std::sort(draft_rows.begin(), draft_rows.end(), [](const DraftRow& a, const DraftRow& b) {
    return std::tuple(-a.chance, a.position, a.candidate) < std::tuple(-b.chance, b.position, b.candidate);
  });

  const int num_plain_rows = num_candidates + batch.num_other_rows;
  const int num_unwaiting = num_plain_rows - num_waiting;
  // Twice as many rows as were measured are tried. While no step of twice the plain rows was, more are hoped to be
  // free.
  const int most_rows = std::max(num_plain_rows, batch.cost->most_rows());
  const int num_rows_max = 2 * most_rows + kRowsFirstTried;
  const int num_priced_rows = most_rows >= 2 * num_plain_rows ? num_rows_max : most_rows;
  // Before anything was measured a step is taken to last as long as a draft may be waited for.
  const auto cost_ms = [&](int num_rows) {
    return batch.cost->known() ? batch.cost->EstimateMs(std::min(num_rows, num_priced_rows)) : batch.wait_ms_max;
  };
  // Of a step with draft rows, those of candidates that wait among them, after waiting for drafts of `bound` tokens.
  struct Rows {
    int num_free = 0, num_waiting = 0;
    double accepted_free = 0, accepted_waiting = 0;  // expected
  };
  const auto value = [&](int bound, const Rows& rows) {
    const double step_ms = std::max(cost_ms(num_plain_rows + rows.num_free + rows.num_waiting), 1e-6);
    const double tokens = num_plain_rows + rows.accepted_free + rows.accepted_waiting;
    if (bound == 0) return tokens / step_ms;
    const double wait_ms = batch.latency_ms[bound];
    if (num_unwaiting == 0) return tokens / (wait_ms + step_ms);
    // Those that do not wait run a step of their own meanwhile.
    const double other_ms = cost_ms(num_unwaiting + rows.num_free);
    return (tokens + num_unwaiting + rows.accepted_free) / (std::max(wait_ms, other_ms) + step_ms);
  };
  choice.tokens_per_ms = choice.tokens_per_ms_plain = value(0, {});
  int best_bound = 0, num_best_rows = 0;
  for (const int bound : kGrid) {
    if (bound > 0 && (num_waiting == 0 || batch.latency_ms[bound] > kWaitShare * batch.wait_ms_max)) break;
    Rows rows;
    for (const DraftRow& row : draft_rows) {
      const bool waits = batch.candidates[row.candidate].waits;
      if (waits && row.position >= bound) continue;
      ++(waits ? rows.num_waiting : rows.num_free);
      (waits ? rows.accepted_waiting : rows.accepted_free) += row.chance;
      if (num_plain_rows + rows.num_waiting + rows.num_free > num_rows_max) break;
      const double tokens_per_ms = value(bound, rows);
      if (tokens_per_ms < kLookaheadGainMin * choice.tokens_per_ms_plain || tokens_per_ms <= choice.tokens_per_ms) {
        continue;
      }
      choice.tokens_per_ms = tokens_per_ms;
      best_bound = bound;
      num_best_rows = rows.num_waiting + rows.num_free;
    }
  }
  for (const DraftRow& row : draft_rows) {
    if (num_best_rows == 0) break;
    const bool waits = batch.candidates[row.candidate].waits;
    if (waits && row.position >= best_bound) continue;
    --num_best_rows;
    ++choice.lookaheads[row.candidate];
    choice.asks[row.candidate] =
        waits ? std::min(best_bound, batch.candidates[row.candidate].lookahead_max) : choice.lookaheads[row.candidate];
  }
  return choice;
}

}  // namespace outrider
