// Memory of a GPU and pinned memory of the host, owned; and the CUDA runtime's errors as absl::Status.
//
// Thread safety: as std::unique_ptr.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace outrider {

// OK, RESOURCE_EXHAUSTED for memory, INTERNAL for all else; `what` names what was being done. An error of a kernel
// shows at whatever waits for it first and is fatal to the rank.
absl::Status CudaStatus(cudaError_t error, absl::string_view what);

enum class CudaMemoryKind : uint8_t { kDevice, kPinned };

// Zeroed. 256-byte aligned.
class CudaMemory {
 public:
  // RESOURCE_EXHAUSTED naming `what` and the bytes, and for the device what is free. 0 bytes give no memory.
  static absl::StatusOr<CudaMemory> Allocate(CudaMemoryKind kind, int64_t bytes, absl::string_view what);

  CudaMemory() = default;
  CudaMemory(CudaMemory&& other) noexcept { *this = std::move(other); }
  CudaMemory& operator=(CudaMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(kind_, other.kind_);
    return *this;
  }
  ~CudaMemory();

  template <typename T = void>
  T* data() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  CudaMemoryKind kind_ = CudaMemoryKind::kDevice;
};

}  // namespace outrider
