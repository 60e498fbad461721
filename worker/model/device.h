// Where a rank computes.
#pragma once

#include <cstdint>

namespace outrider {

enum class Device : uint8_t { kCpu, kCuda };

}  // namespace outrider
