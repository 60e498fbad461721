// The device that tests compute on: OUTRIDER_TEST_DEVICE=cuda runs them on GPUs, one a rank.
#pragma once

#include <cstdlib>
#include <string_view>

#include "worker/model/cuda_backend.h"
#include "worker/model/device.h"

namespace outrider {

inline Device TestDevice() {
  const char* const device = std::getenv("OUTRIDER_TEST_DEVICE");
  return device != nullptr && std::string_view(device) == "cuda" ? Device::kCuda : Device::kCpu;
}

// Whether a group of `world_size` ranks can be had there.
inline bool TestDeviceHas(int world_size) { return TestDevice() == Device::kCpu || world_size <= NumCudaDevices(); }

}  // namespace outrider
