#include "kernels/sampling/row_candidates.h"

#include <algorithm>
#include <limits>

#include "kernels/sampling/coupled_noise.h"
#include "kernels/sampling/row_scan.h"

namespace outrider::kernels {

using Candidate = SamplingScratch::Candidate;

float MinPDelta(const SamplingRow& row) {
  if (row.min_p <= 0.0f) return -std::numeric_limits<float>::infinity();
  // A min_p of 1 or more keeps the highest logit' alone, ties included; the log of a subnormal is not asked for.
  return NoiseLog(std::clamp(row.min_p, 1e-37f, 1.0f));
}

bool ComesBefore(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token_id < b.token_id);
}

void KeepFirst(size_t count, std::vector<Candidate>* candidates) {
  if (candidates->size() <= count) return;
  std::nth_element(candidates->begin(), candidates->begin() + static_cast<ptrdiff_t>(count), candidates->end(),
                   ComesBefore);
  candidates->resize(count);
}

// A weighted selection: halves are split by nth_element and weighed; the sums are exact, so this is what adding in
// order would find.
void KeepMass(double wanted, float max, std::vector<Candidate>* candidates) {
  constexpr ptrdiff_t kSortedAtOnce = 64;
  auto first = candidates->begin(), end = candidates->end();
  double before = 0;  // weight of all that comes before `first`
  while (end - first > kSortedAtOnce) {
    const auto middle = first + (end - first) / 2;
    std::nth_element(first, middle, end, ComesBefore);
    double mass = 0;
    for (auto it = first; it != middle; ++it) mass += WeightOf(it->logit - max);
    if (before + mass >= wanted) {
      end = middle;
    } else {
      before += mass;
      first = middle;
    }
  }
  std::sort(first, end, ComesBefore);
  while (first != end) {
    before += WeightOf(first->logit - max);
    ++first;
    if (before >= wanted) break;
  }
  candidates->erase(first, candidates->end());
}

double MassOf(const std::vector<Candidate>& candidates, float max) {
  double mass = 0;
  for (const Candidate& candidate : candidates) mass += WeightOf(candidate.logit - max);
  return mass;
}

}  // namespace outrider::kernels
