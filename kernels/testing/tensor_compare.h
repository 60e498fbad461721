// Comparing a kernel's output with its oracle's: tolerances computed from the arithmetic, never chosen by looking.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace outrider::kernels::testing {

// Unit roundoff of fp32.
inline constexpr double kUnitRoundoff = 0x1.0p-24;

// Bound on the error of an fp32 sum or dot product of n terms in any order, with rounded products:
// n u / (1 - n u) * sum |terms| (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
double DotErrorBound(int64_t num_terms, double sum_of_magnitudes);

// Empty if |actual[i] - expected[i]| <= tolerance[i] for all i (NaN nowhere); else which element is worst, both values
// and the tolerance. `tolerance` of size 1 holds for all.
std::string CompareTensors(std::span<const float> actual, std::span<const float> expected,
                           std::span<const double> tolerance);

// Empty if all bits are equal; else the first element that differs, with its bits.
std::string CompareBits(std::span<const float> actual, std::span<const float> expected);

}  // namespace outrider::kernels::testing
