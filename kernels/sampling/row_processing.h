// Steps 1 to 3 of sample_row.h: what bias, masks and penalties make of a row.
//
// Thread safety: pure functions of their arguments.
#pragma once

#include "kernels/sampling/sample_row.h"

namespace outrider::kernels {

bool HasPenalties(const SamplingRow& row);
// Whether these steps may change the row.
bool ChangesLogits(const SamplingRow& row);

// Plain memory: it crosses to devices.
struct Penalties {
  float repetition = 1.0f;
  float presence = 0.0f;
  float frequency = 0.0f;
};
Penalties PenaltiesOf(const SamplingRow& row);
// Step 3 of a token that the sequence has, `output_count` times in its output.
float Penalized(const Penalties& penalties, float logit, int output_count);

// The row as steps 4 to 8 see it: `raw` itself or a changed copy in `scratch`.
const float* ProcessedLogits(const SamplingRow& row, const float* raw, int vocab_size, SamplingScratch& scratch);

}  // namespace outrider::kernels
