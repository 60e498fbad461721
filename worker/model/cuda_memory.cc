#include "worker/model/cuda_memory.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {

absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", cudaGetErrorString(error), " (CUDA error ",
                                           static_cast<int>(error), ", ", cudaGetErrorName(error), ")");
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
}

absl::StatusOr<CudaMemory> CudaMemory::Allocate(CudaMemoryKind kind, int64_t bytes, absl::string_view what) {
  CudaMemory memory;
  if (bytes <= 0) return memory;
  memory.kind_ = kind;
  if (kind == CudaMemoryKind::kPinned) {
    const cudaError_t error = cudaHostAlloc(&memory.data_, static_cast<size_t>(bytes), cudaHostAllocDefault);
    if (error != cudaSuccess) {
      memory.data_ = nullptr;
      return CudaStatus(error, absl::StrCat("no pinned memory for ", bytes, " bytes of ", what));
    }
    __builtin_memset(memory.data_, 0, static_cast<size_t>(bytes));
  } else {
    const cudaError_t error = cudaMalloc(&memory.data_, static_cast<size_t>(bytes));
    if (error != cudaSuccess) {
      memory.data_ = nullptr;
      size_t free_bytes = 0, total_bytes = 0;
      cudaMemGetInfo(&free_bytes, &total_bytes);
      return CudaStatus(error, absl::StrCat("no GPU memory for ", bytes >> 20, " MiB of ", what, "; ", free_bytes >> 20,
                                            " of ", total_bytes >> 20, " MiB are free"));
    }
    memory.bytes_ = bytes;
    RETURN_IF_ERROR(CudaStatus(cudaMemset(memory.data_, 0, static_cast<size_t>(bytes)), what));
    // Streams that do not wait for the default one may use it at once.
    RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(nullptr), what));
  }
  memory.bytes_ = bytes;
  return memory;
}

CudaMemory::~CudaMemory() {
  if (data_ == nullptr) return;
  // Errors here are those of an earlier kernel, which has been reported.
  if (kind_ == CudaMemoryKind::kPinned) {
    cudaFreeHost(data_);
  } else {
    cudaFree(data_);
  }
}

}  // namespace outrider
