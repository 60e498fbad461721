// The tensor map by which the copy engine reads rows of x: boxes of 64 columns of K, 128-byte swizzle.
#pragma once

#include <cuda.h>

#include "kernels/common/cuda_launch.h"
#include "kernels/gemm/device_gemm_shared.cuh"

namespace outrider::kernels::device {

// Boxes of box_rows rows; rows beyond the last are read as zeros. The driver's encoder is found through the runtime so
// that nothing links against the driver; an error if there is none.
inline KernelError MakeRowsMap(const MatMulView& view, int box_rows, CUtensorMap* map) {
  using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                   const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const EncodeTiled encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(entry)
                                                                        : nullptr;
  }();
  if (encode == nullptr) return FromCuda(cudaErrorNotSupported);
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(view.num_k_tiles) * 16, static_cast<cuuint64_t>(view.num_rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(view.x_stride) * 2};
  const cuuint32_t box[] = {kChunkColumns, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<uint16_t*>(view.x), sizes,
                                 strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? KernelError::kOk : FromCuda(cudaErrorInvalidValue);
}

}  // namespace outrider::kernels::device
