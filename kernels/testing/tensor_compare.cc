#include "kernels/testing/tensor_compare.h"

#include <bit>
#include <cmath>
#include <cstdio>

namespace outrider::kernels::testing {

double DotErrorBound(int64_t num_terms, double sum_of_magnitudes) {
  const double nu = static_cast<double>(num_terms) * kUnitRoundoff;
  return nu / (1.0 - nu) * sum_of_magnitudes;
}

std::string CompareTensors(std::span<const float> actual, std::span<const float> expected,
                           std::span<const double> tolerance) {
  if (actual.size() != expected.size()) return "sizes differ";
  if (tolerance.size() != 1 && tolerance.size() != actual.size()) return "tolerance has another size";
  double worst_excess = 0;
  size_t worst = actual.size();
  for (size_t i = 0; i < actual.size(); ++i) {
    const double allowed = tolerance[tolerance.size() == 1 ? 0 : i];
    const double excess = std::fabs(static_cast<double>(actual[i]) - expected[i]) - allowed;
    if (excess <= 0) continue;
    if (worst == actual.size() || !(excess <= worst_excess)) {
      worst = i;
      worst_excess = excess;
    }
  }
  if (worst == actual.size()) return "";
  char text[200];
  std::snprintf(text, sizeof(text), "element %zu of %zu: %.9g, expected %.9g, tolerance %.3g", worst, actual.size(),
                actual[worst], expected[worst], tolerance[tolerance.size() == 1 ? 0 : worst]);
  return text;
}

std::string CompareBits(std::span<const float> actual, std::span<const float> expected) {
  if (actual.size() != expected.size()) return "sizes differ";
  for (size_t i = 0; i < actual.size(); ++i) {
    const uint32_t a = std::bit_cast<uint32_t>(actual[i]);
    const uint32_t b = std::bit_cast<uint32_t>(expected[i]);
    if (a == b) continue;
    char text[200];
    std::snprintf(text, sizeof(text), "element %zu of %zu: %.9g (%08x), expected %.9g (%08x)", i, actual.size(),
                  actual[i], a, expected[i], b);
    return text;
  }
  return "";
}

}  // namespace outrider::kernels::testing
