// Launching kernels: the CUDA runtime's errors as KernelError, and dependent launch switched on.
//
// Only for .cu files and host code of the CUDA backend.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

#include "kernels/common/stream.h"  // KernelError

namespace outrider::kernels {

// cudaSuccess is kOk; memory is kOutOfMemory; anything else is minus the runtime's number.
inline KernelError FromCuda(cudaError_t error) {
  if (error == cudaSuccess) return KernelError::kOk;
  if (error == cudaErrorMemoryAllocation) return KernelError::kOutOfMemory;
  return static_cast<KernelError>(-static_cast<int>(error));
}

struct LaunchShape {
  dim3 grid;
  int block = 0;            // threads
  size_t shared_bytes = 0;  // dynamic
  int cluster = 1;          // blocks of a thread block cluster, which divides grid.x
};

#ifdef __CUDACC__
// Raises the limit of dynamic shared memory where it is needed and starts the kernel, which may begin before the one
// ahead of it in the stream has ended (device::WaitForEarlierKernels).
template <typename... Parameters, typename... Arguments>
KernelError Launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream stream, Arguments&&... arguments) {
  if (shape.shared_bytes > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return FromCuda(error);
  }
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.block));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = shape.cluster > 1 ? 2 : 1;
  return FromCuda(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...));
}

// How many clusters of such blocks the GPU runs at once.
template <typename... Parameters>
KernelError MaxActiveClusters(void (*kernel)(Parameters...), int block, size_t shared_bytes, int cluster, int* count) {
  const void* const function = reinterpret_cast<const void*>(kernel);
  cudaError_t error =
      cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return FromCuda(error);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(cluster));
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return FromCuda(cudaOccupancyMaxActiveClusters(count, function, &config));
}
#endif

}  // namespace outrider::kernels
