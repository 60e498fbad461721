#include "text/testing/seed.h"

#include <cstdio>
#include <cstdlib>

namespace outrider::text {

uint64_t TestSeed(uint64_t default_seed) {
  const char* set = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = set != nullptr && set[0] != '\0' ? std::strtoull(set, nullptr, 10) : default_seed;
  std::printf("OUTRIDER_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace outrider::text
