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

KernelError LaunchStreamingMatMul(const MatMulView& view, DeviceEpilogue epilogue, Stream stream);
KernelError LaunchTiledMatMul(const MatMulView& view, DeviceEpilogue epilogue, Stream stream);
KernelError LaunchClusterMatMul(const MatMulView& view, DeviceEpilogue epilogue, Stream stream);

}  // namespace outrider::kernels::device
