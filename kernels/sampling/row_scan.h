// Passes over a row of logits: what sampling is made of. SIMD, one thread; a row's result is a function of the row.
//
// Throughout: logit'_v = logits[v] * scale (one rounding; scale = 1 / temperature > 0), delta_v = logit'_v - max (one
// rounding), weight_v = exp(delta_v) rounded to a multiple of 2^-34, so that sums of weights are exact.
//
// Thread safety: pure functions of their arguments.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/sampling/philox.h"
#include "kernels/sampling/sample_row.h"

namespace outrider::kernels {

struct RowExtent {
  float max = -std::numeric_limits<float>::infinity();  // of what is not NaN
  bool has_nan = false;
};
RowExtent ScanExtent(const float* logits, int vocab_size);

// The lowest id whose logit equals value, or -1.
int32_t FindFirst(const float* logits, int vocab_size, float value);

// exp(delta) on the grid: the weight of one token.
double WeightOf(float delta);

// Sum of the weights of tokens with delta >= delta_min; exact.
double SumWeights(const float* logits, int vocab_size, float scale, float max, float delta_min);

// Replaces *out by the tokens with delta >= delta_min, ids ascending; Candidate::logit is logit'.
void CollectAtLeast(const float* logits, int vocab_size, float scale, float max, float delta_min,
                    std::vector<SamplingScratch::Candidate>* out);

// Which tokens take part: those with logit' > logit, and of those equal to it the ids up to last_id.
struct TokenFloor {
  float logit = -std::numeric_limits<float>::infinity();
  int32_t last_id = std::numeric_limits<int32_t>::max();
};

// argmax of logit' - log E over the tokens that take part, ties to the lowest id; -1 if none is above -infinity.
// `likely_id` (-1: none), one of them with a high logit, is scored first, so that most of the rest can be skipped:
// a token cannot win if its logit' plus an upper bound of its noise is below the best score so far. The bounds hold for
// the computed values, so the result is that of scoring every token.
// REQUIRES: no NaN.
int32_t CoupledArgMax(const float* logits, int vocab_size, float scale, const DrawKey& key, DrawPurpose purpose,
                      const TokenFloor& floor, int32_t excluded_id, int32_t likely_id);

// The score of one token: the same bits as inside CoupledArgMax.
float CoupledScore(float scaled_logit, const DrawKey& key, DrawPurpose purpose, int32_t token_id);

}  // namespace outrider::kernels
