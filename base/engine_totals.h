// What a target group counted since its start, as it tells routers in its heartbeats.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace outrider {

// Positions of a draft that are counted apart: the longest draft there is.
inline constexpr size_t kDraftPositionsMax = 32;

// Steps are counted by the positions they computed: up to 1, up to 8, and so on; the last place is for larger ones.
// The bounds are vLLM's of iteration_tokens_total.
inline constexpr std::array<double, 13> kStepTokenBounds = {1,   8,    16,   32,   64,   128,  256,
                                                            512, 1024, 2048, 4096, 8192, 16384};

struct EngineTotals {
  int64_t num_preemptions = 0;
  int64_t num_rounds = 0;         // rows that verified a draft
  int64_t num_hidden_rounds = 0;  // of them, those whose draft was there without a wait
  int64_t num_committed_tokens = 0;
  std::array<int64_t, kDraftPositionsMax> draft_tokens{};     // verified, by position
  std::array<int64_t, kDraftPositionsMax> accepted_tokens{};  // of them
  int64_t num_step_tokens = 0;                                // positions computed
  std::array<int64_t, kStepTokenBounds.size() + 1> steps_by_tokens{};
};

}  // namespace outrider
