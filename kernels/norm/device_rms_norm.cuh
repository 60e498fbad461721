// The arithmetic of DeviceRmsNorm, a row by 256 threads: its order of addition is here alone, so every kernel that
// norms a row gives it the same bits. Use: each thread loads its fours, NormSquares gives a warp's sum, the eight sums
// meet in shared memory, NormInverse and NormFour do the rest.
#pragma once

#include "kernels/common/cuda_device.cuh"

namespace outrider::kernels::device {

inline constexpr int kNormThreads = 256;
inline constexpr int kNormWarps = kNormThreads / 32;
// Fours of elements that a thread keeps in registers: rows of up to 4096 are read once.
inline constexpr int kNormKept = 4;

// Those of a thread that are kept: four k is number `thread + k * 256` of `num_fours`.
__device__ __forceinline__ void LoadNormFours(const float4* from, int num_fours, int thread,
                                              float4 (&kept)[kNormKept]) {
#pragma unroll
  for (int k = 0; k < kNormKept; ++k) {
    const int i = thread + k * kNormThreads;
    if (i < num_fours) kept[k] = from[i];
  }
}

// Squares of a warp's elements of the row x, whose first fours are kept.
__device__ __forceinline__ float NormSquares(const float4* x, const float4 (&kept)[kNormKept], int num_fours,
                                             int thread) {
  float squares = 0;
  const auto add = [&](const float4& v) {
    squares = __fmaf_rn(v.x, v.x, squares);
    squares = __fmaf_rn(v.y, v.y, squares);
    squares = __fmaf_rn(v.z, v.z, squares);
    squares = __fmaf_rn(v.w, v.w, squares);
  };
#pragma unroll
  for (int k = 0; k < kNormKept; ++k) {
    if (thread + k * kNormThreads < num_fours) add(kept[k]);
  }
  for (int i = thread + kNormKept * kNormThreads; i < num_fours; i += kNormThreads) add(x[i]);
  return WarpSum(squares);
}

// 1 / sqrt(mean of squares + epsilon) of a row.
__device__ __forceinline__ float NormInverse(const float* warp_sums, int size, float epsilon) {
  float total = warp_sums[0];
#pragma unroll
  for (int warp = 1; warp < kNormWarps; ++warp) total += warp_sums[warp];
  const float mean = __fdiv_rn(total, static_cast<float>(size));
  return __fdiv_rn(1.0f, __fsqrt_rn(mean + epsilon));
}

// Four normed elements, bf16.
__device__ __forceinline__ uint2 NormFour(const float4& v, float inverse, const float4& w) {
  return make_uint2(PackBf16(v.x * inverse * w.x, v.y * inverse * w.y),
                    PackBf16(v.z * inverse * w.z, v.w * inverse * w.w));
}

// Calls store(i, normed four i) for all of a thread.
template <typename Store>
__device__ __forceinline__ void NormFours(const float4* x, const float4 (&kept)[kNormKept], const float4* weight,
                                          const float4 (&kept_weight)[kNormKept], int num_fours, int thread,
                                          float inverse, const Store& store) {
#pragma unroll
  for (int k = 0; k < kNormKept; ++k) {
    const int i = thread + k * kNormThreads;
    if (i < num_fours) store(i, NormFour(kept[k], inverse, kept_weight[k]));
  }
  for (int i = thread + kNormKept * kNormThreads; i < num_fours; i += kNormThreads) {
    store(i, NormFour(x[i], inverse, weight[i]));
  }
}

}  // namespace outrider::kernels::device
