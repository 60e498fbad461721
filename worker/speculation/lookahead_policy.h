// LookaheadPolicy chooses how many draft tokens each sequence asks for: those that maximise the expected committed
// tokens per second of the whole batch, by measured step time, draft time and acceptance; none is among the candidates.
// PURE.
//
// A batch with lookahead K_s for sequence s commits sum(1 + E_s(K_s)) tokens in wait + step(sum(1 + K_s)) ms, E_s being
// the expected accepted tokens and wait the latency of the longest draft that has to be waited for; while some wait,
// the others run a step of their own. For each bound of a grid on what those that wait ask for, draft rows are added by
// their chance of acceptance, the likeliest first, for as many as are best: for a given number of rows no others commit
// more.
//
// It learns again after it chose none because what it decides by fades towards hope (AcceptanceStats, DraftLatency):
// about once in half a minute a few rounds are spent on a trial. See lookahead_policy_test.cc for what that costs.
#pragma once

#include <array>
#include <vector>

#include "absl/types/span.h"
#include "worker/step/draft_offer.h"  // kMaxLookahead
#include "worker/step/step_cost_model.h"

namespace outrider {

struct LookaheadCandidate {
  int lookahead_max = 0;                    // by its own bounds; 0..kMaxLookahead
  bool waits = true;                        // its draft takes time; false: it is there
  std::array<double, kMaxLookahead> rates;  // of acceptance by position, those below lookahead_max
};

struct LookaheadBatch {
  absl::Span<const LookaheadCandidate> candidates;
  int num_other_rows = 0;               // of sequences that are not drafted for
  const StepCostModel* cost = nullptr;  // of decode steps
  // Wait for drafts of k tokens, by k, for all candidates that wait together. [0] is not used.
  std::array<double, kMaxLookahead + 1> latency_ms{};
  double wait_ms_max = 0;  // a lookahead whose draft is expected to take longer is of no use
};

struct LookaheadChoice {
  std::vector<int> asks;           // draft tokens to ask for, by candidate; equal for all that wait, so that drafts
                                   // arrive together
  std::vector<int> lookaheads;     // of them, to verify
  double tokens_per_ms = 0;        // expected
  double tokens_per_ms_plain = 0;  // expected without any draft
};

LookaheadChoice ChooseLookaheads(const LookaheadBatch& batch);

// Drafting must promise so much more than plain steps: less is within what the estimates are worth.
inline constexpr double kLookaheadGainMin = 1.05;

}  // namespace outrider
