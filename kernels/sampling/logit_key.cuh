// A value and its id as one number that compares as choosing does: higher value first, then lower id. NaN and plus
// infinity come out above every finite value; minus zero equals zero.
#pragma once

#include <cstdint>

namespace outrider::kernels::device {

__device__ __forceinline__ uint64_t LogitKey(float logit, int id) {
  uint32_t bits = __float_as_uint(logit);
  if (logit != logit) bits = 0x7FC00000u;
  if (logit == 0.0f) bits = 0;
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(id));
}

__device__ __forceinline__ float LogitOfKey(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered);
}

__device__ __forceinline__ int32_t IdOfKey(uint64_t key) {
  return static_cast<int32_t>(0xFFFFFFFFu - static_cast<uint32_t>(key));
}

}  // namespace outrider::kernels::device
