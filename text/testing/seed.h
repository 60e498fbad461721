// The seed of a random test.
#pragma once

#include <cstdint>

namespace outrider::text {

// OUTRIDER_TEST_SEED if set, else `default_seed`. Prints it, so that a failure can be repeated.
uint64_t TestSeed(uint64_t default_seed);

}  // namespace outrider::text
