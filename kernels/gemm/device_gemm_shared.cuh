// What the kernels of device_gemm.h share: the layout's numbers and the epilogue.
#pragma once

#include "kernels/common/cuda_device.cuh"
#include "kernels/gemm/device_gemm.h"

namespace outrider::kernels::device {

inline constexpr int kTileBytes = 512;    // 16 x 16 weights
inline constexpr int kChunkColumns = 64;  // of K: four tiles
inline constexpr int kNumSegments = 4;    // chunk c belongs to segment c % 4
inline constexpr int kTilesPerChunk = kChunkColumns / 16;

// DeviceMatMulArgs as a kernel sees it.
struct MatMulView {
  DeviceNormedRows norm;
  const uint8_t* w;
  const uint16_t* x;
  void* out;
  const float* bias;
  int64_t x_stride;
  int64_t out_stride;
  int num_rows;
  int num_features;   // N
  int num_row_tiles;  // of w: N / 16, rounded up
  int num_k_tiles;    // padded K / 16
  int num_columns;    // K
};

// Stores one output of a row; for kSiluMul see StoreGated.
template <DeviceEpilogue kEpilogue>
__device__ __forceinline__ void StoreOutput(const MatMulView& view, int row, int feature, float acc) {
  if (feature >= view.num_features) return;
  if (view.bias != nullptr) acc += view.bias[feature];
  const int64_t index = static_cast<int64_t>(row) * view.out_stride + feature;
  if constexpr (kEpilogue == DeviceEpilogue::kStoreBf16) {
    static_cast<__nv_bfloat16*>(view.out)[index] = __float2bfloat16_rn(acc);
  } else if constexpr (kEpilogue == DeviceEpilogue::kStoreF32) {
    static_cast<float*>(view.out)[index] = acc;
  } else {
    static_cast<float*>(view.out)[index] += acc;
  }
}

// Features of gate and up in turn, 16 by 16: `pair` counts the pairs of row tiles.
__device__ __forceinline__ void StoreGated(const MatMulView& view, int row, int pair, int feature_in_tile, float gate,
                                           float up) {
  static_cast<__nv_bfloat16*>(view.out)[static_cast<int64_t>(row) * view.out_stride + pair * 16 + feature_in_tile] =
      __float2bfloat16_rn(Silu(gate) * up);
}

// Where the residual is to be added to four neighbouring outputs, what it was.
__device__ __forceinline__ float4 OldFour(const MatMulView& view, DeviceEpilogue epilogue, int row, int feature) {
  if (epilogue != DeviceEpilogue::kAddF32 || row >= view.num_rows || feature + 4 > view.num_features) return {};
  return *reinterpret_cast<const float4*>(static_cast<const float*>(view.out) +
                                          static_cast<int64_t>(row) * view.out_stride + feature);
}

// Four neighbouring outputs of a row, their sums complete; `old` is what was there, for kAddF32. Lanes of a warp hold
// 64 or 128 features side by side.
__device__ __forceinline__ void StoreFour(const MatMulView& view, DeviceEpilogue epilogue, int row, int feature,
                                          bool active, float4 sum, float4 old) {
  if (epilogue == DeviceEpilogue::kSiluMul) {
    // 16 features of gate (four lanes), then the same of up.
    const float4 up = {__shfl_down_sync(kFullWarp, sum.x, 4), __shfl_down_sync(kFullWarp, sum.y, 4),
                       __shfl_down_sync(kFullWarp, sum.z, 4), __shfl_down_sync(kFullWarp, sum.w, 4)};
    if (!active || feature / 16 % 2 == 1) return;
    const int64_t index = static_cast<int64_t>(row) * view.out_stride + feature / 32 * 16 + feature % 16;
    *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(view.out) + index) =
        make_uint2(PackBf16(Silu(sum.x) * up.x, Silu(sum.y) * up.y), PackBf16(Silu(sum.z) * up.z, Silu(sum.w) * up.w));
    return;
  }
  if (!active) return;
  float sums[4] = {sum.x, sum.y, sum.z, sum.w};
  const int count = min(4, view.num_features - feature);
  if (view.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) sums[i] += view.bias[feature + i];
    }
  }
  const int64_t index = static_cast<int64_t>(row) * view.out_stride + feature;
  if (epilogue == DeviceEpilogue::kStoreBf16) {
    __nv_bfloat16* const to = static_cast<__nv_bfloat16*>(view.out) + index;
    if (count == 4) {
      *reinterpret_cast<uint2*>(to) = make_uint2(PackBf16(sums[0], sums[1]), PackBf16(sums[2], sums[3]));
    } else {
      for (int i = 0; i < count; ++i) to[i] = __float2bfloat16_rn(sums[i]);
    }
    return;
  }
  float* const to = static_cast<float*>(view.out) + index;
  if (count == 4) {
    float4 v = make_float4(sums[0], sums[1], sums[2], sums[3]);
    if (epilogue == DeviceEpilogue::kAddF32) {
      v = make_float4(old.x + v.x, old.y + v.y, old.z + v.z, old.w + v.w);
    }
    *reinterpret_cast<float4*>(to) = v;
  } else {
    for (int i = 0; i < count; ++i) to[i] = epilogue == DeviceEpilogue::kAddF32 ? to[i] + sums[i] : sums[i];
  }
}

// Of rows to norm, in shared memory. With more rows a kernel of its own is as fast or faster (kernels/README.md).
inline constexpr int kNormedRowsMax = 2;
inline constexpr int kNormedBytes = 31616;
constexpr int NormedRowBytes(int num_k_tiles) { return num_k_tiles * 32 + 16; }

KernelError LaunchStreamingMatMul(const MatMulView& view, DeviceEpilogue epilogue, Stream stream);
KernelError LaunchTiledMatMul(const MatMulView& view, DeviceEpilogue epilogue, DeviceTiling tiling, Stream stream);
KernelError LaunchClusterMatMul(const MatMulView& view, DeviceEpilogue epilogue, Stream stream);

}  // namespace outrider::kernels::device
