// LookaheadPolicy chooses how many draft tokens each sequence asks for: those that maximise the expected committed
// tokens per second of the whole batch, by measured step time, draft time and acceptance. K = 0 is among the
// candidates. PURE.
//
// A batch of S sequences with lookahead K_s commits sum(1 + E_s(K_s)) tokens in wait(max K) + step(sum(1 + K_s)) ms.
// The best common bound K is found by trying all; then each sequence drops draft rows whose chance of acceptance brings
// less than the rows cost.
//
// Exploration: what is not tried is not known. A share of the time (kExplorationShare) is spent on lookaheads beside
// the best, so that speculation starts again when it pays again; its predicted loss is booked against that share.
//
// Thread safety: none.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "worker/speculation/acceptance_stats.h"
#include "worker/speculation/draft_latency.h"
#include "worker/step/step_cost_model.h"

namespace outrider {

class LookaheadPolicy {
 public:
  // One sequence that could be drafted for.
  struct Candidate {
    const AcceptanceStats* acceptance = nullptr;  // its own; outlives the call
    const AcceptanceStats* pooled = nullptr;      // its source's
    int lookahead_max = 0;                        // by its own bounds; 0..kMaxLookahead
  };
  struct Batch {
    absl::Span<const Candidate> candidates;
    int num_other_rows = 0;                 // rows of sequences that are not drafted for
    const StepCostModel* cost = nullptr;    // of decode steps
    const DraftLatency* latency = nullptr;  // null: proposals come at once
    double wait_ms_max = 0;                 // a lookahead whose draft takes longer is of no use
  };
  struct Choice {
    std::vector<int> lookaheads;  // of the candidates, in order
    bool explores = false;
    double tokens_per_ms = 0;        // expected
    double tokens_per_ms_plain = 0;  // expected with no draft at all
  };

  // `elapsed_ms`: engine time since the last choice, of which exploration may cost a share.
  Choice Choose(const Batch& batch, double elapsed_ms);

  // Of the time, spent on trying what is not thought best.
  static constexpr double kExplorationShare = 0.005;

 private:
  double Value(const Batch& batch, absl::Span<const int> lookaheads) const;

  double exploration_credit_ms_ = 0;
  int num_explored_ = 0;
};

}  // namespace outrider
