// Tensors for tests and benches, by seed, with planted outliers: a reduction that is wrong in one lane, or an
// accumulator that is too narrow, shows where one element is a thousand times the others.
#pragma once

#include <cstdint>
#include <vector>

namespace outrider::kernels::testing {

// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). A value; copying it forks the stream.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  // Uniform in [0, 1).
  double Uniform();
  // Uniform in [first, end). REQUIRES: first < end.
  int64_t Integer(int64_t first, int64_t end);
  // Standard normal.
  double Normal();

 private:
  uint64_t state_;
};

// The seed of a test: OUTRIDER_TEST_SEED if set, else `default_seed`. Prints it.
uint64_t TestSeed(uint64_t default_seed);

struct TensorOptions {
  double scale = 1.0;    // standard deviation
  int num_outliers = 0;  // elements multiplied by outlier_factor, at seeded places
  double outlier_factor = 1e3;
};

// [num_elements] normal values.
std::vector<float> RandomTensor(int64_t num_elements, uint64_t seed, const TensorOptions& options = {});

}  // namespace outrider::kernels::testing
