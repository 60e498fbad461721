// DeviceMatMul: dense products of activation rows with bf16 weights on a GPU, fp32 accumulators.
//
//   acc[r][n] = sum over k of x[r][k] * w[n][k]        x [num_rows, K] bf16, w [N, K] bf16
//
// One order of addition for any number of rows. K is cut into chunks of 64; chunk c belongs to segment c % 4; a segment
// adds its chunks ascending, 16 columns at a time in the tensor cores; the 4 segments are added ascending. Three
// kernels follow it, with mma.sync or wgmma, which were measured to give the same bits:
//   streaming  each of 8 warps of a block takes a segment of one of two row tiles while the weights stream by
//   clustered  each of 4 blocks of a thread block cluster takes a segment, then they exchange their sums
//   tiled      a block walks the segments one after the other, or the two blocks of a cluster take two each
// So the bits of an output depend on its own row of x and its own weights: not on the number of rows, their index,
// their neighbours or the kernel.
//
// Few rows are bound by memory: weights are laid out in the order in which they are consumed, so that a stage is one
// contiguous copy of 16 KiB a tile, and the first stages are asked for before the kernel ahead has ended. Many rows are
// bound by arithmetic.
//
// Needs compute capability 9.0. Thread safety: pure; work is queued in the stream.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"

namespace outrider::kernels {

// Rows up to this stream; above, up to 64, the clustered kernel serves matrices of too few features to give every block
// a tile.
inline constexpr int kStreamedRowsMax = 16;

// Weights in the memory of a GPU, bf16, in tiles of 16 output features by 16 input features, tiles of the same output
// features side by side, K ascending. A tile is 512 bytes: lane = 4 g + t of a warp has 16 of them, the elements
//   (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1) (g, 2t+8) (g, 2t+9) (g+8, 2t+8) (g+8, 2t+9)
// which is what it feeds to the tensor core. K is padded to a multiple of 64, N to one of 16, both with zeros.
struct DeviceMatrix {
  void* data = nullptr;  // 128-byte aligned, bytes()
  int64_t out_features = 0;
  int64_t in_features = 0;

  constexpr int64_t num_row_tiles() const { return (out_features + 15) / 16; }
  constexpr int64_t padded_in_features() const { return (in_features + 63) / 64 * 64; }
  constexpr int64_t bytes() const { return num_row_tiles() * padded_in_features() * 32; }
};

// Rows of a row-major matrix into their places of a DeviceMatrix. Row i of the source becomes output feature
//   f = first_feature + i, or with interleave: feature (f / 16 * 2 + interleave_second) * 16 + f % 16
// so that two matrices of equal shape share one, 16 features of the first and 16 of the second in turn (gate and up).
struct PackDeviceMatrixArgs {
  const uint16_t* rows = nullptr;  // [num_rows, in_features] bf16, row-major, device
  int64_t num_rows = 0;
  int64_t first_feature = 0;
  bool interleave = false;
  bool interleave_second = false;
  DeviceMatrix matrix;  // zeroed before the first call: padding is not written
};
// kInvalidShape: rows outside the matrix, or a matrix to interleave whose halves are no multiple of 16.
KernelError PackDeviceMatrix(const PackDeviceMatrixArgs& args, Stream stream);

enum class DeviceEpilogue : uint8_t {
  kStoreBf16,  // out = bf16(acc + bias)                                        [rows, N] bf16
  kStoreF32,   // out = acc + bias                                              [rows, N] fp32
  kAddF32,     // out = out + (acc + bias)                                      [rows, N] fp32, the residual stream
  kSiluMul,    // out = bf16(silu(acc of gate) * acc of up), gate and up interleaved   [rows, N / 2] bf16, no bias
};

// Rows that the product norms itself: x[i] is what DeviceRmsNorm makes of them, bit by bit. Every block does it anew
// while its first weights are on their way, which is cheaper than a kernel of its own for very few rows (NormsRows).
struct DeviceNormedRows {
  const float* x = nullptr;              // fp32 rows, 16-byte aligned; null: none, DeviceMatMulArgs::x is the input
  const int32_t* row_indices = nullptr;  // [num_rows] or null, device
  const float* weight = nullptr;         // [in_features]
  int64_t x_stride = 0;                  // elements, a multiple of 4
  float epsilon = 1e-5f;
};

struct DeviceMatMulArgs {
  DeviceMatrix w;
  const uint16_t* x = nullptr;  // [num_rows, padded_in_features] bf16, 16-byte aligned; padding finite (say zero)
  int64_t x_stride = 0;         // elements between rows, a multiple of 8, >= padded_in_features
  DeviceNormedRows norm;        // instead of x
  int num_rows = 0;             // 0 is allowed and launches nothing
  void* out = nullptr;          // 16-byte aligned; must not overlap x
  int64_t out_stride = 0;       // elements between rows, a multiple of 8
  const float* bias = nullptr;  // [N] or null
  DeviceEpilogue epilogue = DeviceEpilogue::kStoreBf16;
};

// Whether products of so many rows can take DeviceNormedRows: they stream, and the rows fit beside the ring.
bool NormsRows(const DeviceMatrix& w, int num_rows);

// kInvalidShape: strides or counts not as stated, or rows to norm where !NormsRows; kNullPointer; a negative value is
// minus the CUDA runtime's error.
KernelError DeviceMatMul(const DeviceMatMulArgs& args, Stream stream);

// Which kernel computes, and how the tiled one cuts its outputs (device_gemm_tiled.cu); for tests and benches. kAuto is
// what DeviceMatMul does. kInvalidShape as well: kRuns with more rows than it says.
enum class DeviceMatMulKernel : uint8_t { kAuto, kStreaming, kClustered, kTiled };
enum class DeviceTiling : uint8_t { kAuto, kRuns32, kRuns64, kHalves64, kHalves128, kPairs128, kPairs176, kPairs192 };
KernelError DeviceMatMulWith(DeviceMatMulKernel kernel, const DeviceMatMulArgs& args, Stream stream,
                             DeviceTiling tiling = DeviceTiling::kAuto);

}  // namespace outrider::kernels
