// A seed for random tests, printed; OUTRIDER_TEST_SEED overrides it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace outrider::router {

inline uint64_t TestSeed() {
  const char* given = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::printf("OUTRIDER_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace outrider::router
