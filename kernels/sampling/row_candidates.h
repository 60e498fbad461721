// Tokens that may be chosen, with their logits: what steps 5 to 7 of sample_row.h select from. Every result is a
// function of the set, not of its order.
//
// Thread safety: pure functions of their arguments.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/sampling/sample_row.h"

namespace outrider::kernels {

// Step 5 keeps tokens with delta of at least this; minus infinity: all.
float MinPDelta(const SamplingRow& row);

// Logit' descending, then id ascending: the order of steps 6 and 7.
bool ComesBefore(const SamplingScratch::Candidate& a, const SamplingScratch::Candidate& b);

// Keeps the first `count` in order. Leaves *candidates in any order.
void KeepFirst(size_t count, std::vector<SamplingScratch::Candidate>* candidates);

// Keeps the shortest prefix in order whose weights, relative to logit' `max`, sum to at least `wanted`.
void KeepMass(double wanted, float max, std::vector<SamplingScratch::Candidate>* candidates);

// Their weights' sum; exact.
double MassOf(const std::vector<SamplingScratch::Candidate>& candidates, float max);

}  // namespace outrider::kernels
