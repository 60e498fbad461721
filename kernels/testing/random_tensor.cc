#include "kernels/testing/random_tensor.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace outrider::kernels::testing {

uint64_t Random::Next() {
  uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

double Random::Uniform() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }

int64_t Random::Integer(int64_t first, int64_t end) {
  return first + static_cast<int64_t>(Next() % static_cast<uint64_t>(end - first));
}

double Random::Normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - Uniform()));
  return radius * std::cos(6.283185307179586 * Uniform());
}

uint64_t TestSeed(uint64_t default_seed) {
  const char* text = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 10) : default_seed;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

std::vector<float> RandomTensor(int64_t num_elements, uint64_t seed, const TensorOptions& options) {
  Random random(seed);
  std::vector<float> values(static_cast<size_t>(num_elements));
  for (float& value : values) value = static_cast<float>(options.scale * random.Normal());
  for (int i = 0; i < options.num_outliers && num_elements > 0; ++i) {
    values[static_cast<size_t>(random.Integer(0, num_elements))] *= static_cast<float>(options.outlier_factor);
  }
  return values;
}

}  // namespace outrider::kernels::testing
