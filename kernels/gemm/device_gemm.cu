#include "kernels/common/cuda_launch.h"
#include "kernels/gemm/device_gemm.h"
#include "kernels/gemm/device_gemm_shared.cuh"

namespace outrider::kernels {
namespace {

__global__ void PackTiles(PackDeviceMatrixArgs args) {
  device::WaitForEarlierKernels();
  const int64_t columns = args.matrix.in_features;
  const int64_t num_elements = args.num_rows * columns;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  uint16_t* const out = static_cast<uint16_t*>(args.matrix.data);
  const int64_t k_tiles = args.matrix.padded_in_features() / 16;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < num_elements; i += step) {
    const int64_t k = i % columns;
    int64_t feature = args.first_feature + i / columns;
    if (args.interleave) feature = (feature / 16 * 2 + (args.interleave_second ? 1 : 0)) * 16 + feature % 16;
    const int row = static_cast<int>(feature % 16), column = static_cast<int>(k % 16);
    const int lane = row % 8 * 4 + column % 8 / 2;
    const int place = column / 8 * 4 + row / 8 * 2 + column % 2;
    out[(feature / 16 * k_tiles + k / 16) * 256 + lane * 8 + place] = args.rows[i];
  }
}

}  // namespace

KernelError PackDeviceMatrix(const PackDeviceMatrixArgs& args, Stream stream) {
  const DeviceMatrix& matrix = args.matrix;
  const int64_t end = args.first_feature + args.num_rows;
  const int64_t capacity = args.interleave ? matrix.out_features / 2 : matrix.out_features;
  if (args.num_rows < 0 || args.first_feature < 0 || end > capacity || matrix.in_features < 1 ||
      (args.interleave && matrix.out_features % 32 != 0)) {
    return KernelError::kInvalidShape;
  }
  if (args.num_rows == 0) return KernelError::kOk;
  if (args.rows == nullptr || matrix.data == nullptr) return KernelError::kNullPointer;
  return Launch(PackTiles, {.grid = dim3(1024), .block = 256}, stream, args);
}

namespace device {
namespace {

// Measured on an H200 with the shapes of an 8B model (kernels/README.md): with six row tiles for every multiprocessor
// runs of them win from 9 rows on.
DeviceMatMulKernel BestKernel(const MatMulView& view) {
  constexpr int kRunTilesMin = 6 * 132;
  if (view.num_rows <= 8) return DeviceMatMulKernel::kStreaming;
  if (view.num_rows > 64 || view.num_row_tiles >= kRunTilesMin) return DeviceMatMulKernel::kTiled;
  return view.num_rows <= kStreamedRowsMax ? DeviceMatMulKernel::kStreaming : DeviceMatMulKernel::kClustered;
}

}  // namespace
}  // namespace device

bool NormsRows(const DeviceMatrix& w, int num_rows) {
  const int64_t row_bytes = device::NormedRowBytes(static_cast<int>(w.padded_in_features() / 16));
  return num_rows <= device::kNormedRowsMax && num_rows * row_bytes <= device::kNormedBytes && w.in_features % 4 == 0;
}

KernelError DeviceMatMul(const DeviceMatMulArgs& args, Stream stream) {
  return DeviceMatMulWith(DeviceMatMulKernel::kAuto, args, stream);
}

KernelError DeviceMatMulWith(DeviceMatMulKernel kernel, const DeviceMatMulArgs& args, Stream stream,
                             DeviceTiling tiling) {
  const bool gated = args.epilogue == DeviceEpilogue::kSiluMul;
  const int64_t out_columns = gated ? args.w.out_features / 2 : args.w.out_features;
  const bool norms = args.norm.x != nullptr;
  if (args.num_rows < 0 || args.w.out_features < 1 || args.w.in_features < 1 || args.out_stride % 8 != 0 ||
      args.out_stride < out_columns || (gated && (args.w.out_features % 32 != 0 || args.bias != nullptr))) {
    return KernelError::kInvalidShape;
  }
  if (norms ? !NormsRows(args.w, args.num_rows) || args.norm.x_stride % 4 != 0 ||
                  args.norm.x_stride < args.w.in_features ||
                  (kernel != DeviceMatMulKernel::kAuto && kernel != DeviceMatMulKernel::kStreaming)
            : args.x_stride % 8 != 0 || args.x_stride < args.w.padded_in_features()) {
    return KernelError::kInvalidShape;
  }
  if (args.num_rows == 0) return KernelError::kOk;
  if (args.w.data == nullptr || (norms ? args.norm.weight == nullptr : args.x == nullptr) || args.out == nullptr) {
    return KernelError::kNullPointer;
  }
  device::MatMulView view{.norm = args.norm,
                          .w = static_cast<const uint8_t*>(args.w.data),
                          .x = args.x,
                          .out = args.out,
                          .bias = args.bias,
                          .x_stride = args.x_stride,
                          .out_stride = args.out_stride,
                          .num_rows = args.num_rows,
                          .num_features = static_cast<int>(args.w.out_features),
                          .num_row_tiles = static_cast<int>(args.w.num_row_tiles()),
                          .num_k_tiles = static_cast<int>(args.w.padded_in_features() / 16),
                          .num_columns = static_cast<int>(args.w.in_features)};
  if (kernel == DeviceMatMulKernel::kAuto) kernel = device::BestKernel(view);
  if (kernel == DeviceMatMulKernel::kClustered) return device::LaunchClusterMatMul(view, args.epilogue, stream);
  if (kernel == DeviceMatMulKernel::kTiled) return device::LaunchTiledMatMul(view, args.epilogue, tiling, stream);
  // Any number of rows, kStreamedRowsMax at a time.
  const int64_t out_bytes = args.epilogue == DeviceEpilogue::kStoreBf16 || gated ? sizeof(uint16_t) : sizeof(float);
  for (int first = 0; first < args.num_rows; first += kStreamedRowsMax) {
    view.num_rows = args.num_rows - first < kStreamedRowsMax ? args.num_rows - first : kStreamedRowsMax;
    view.x = args.x + first * args.x_stride;
    view.out = static_cast<uint8_t*>(args.out) + first * args.out_stride * out_bytes;
    const KernelError error = device::LaunchStreamingMatMul(view, args.epilogue, stream);
    if (error != KernelError::kOk) return error;
  }
  return KernelError::kOk;
}

}  // namespace outrider::kernels
