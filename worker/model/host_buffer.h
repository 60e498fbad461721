// HostBuffer: zeroed memory in pages of its own, 64-byte aligned at least, committed as it is touched and on huge pages
// where the system has them.
//
// Thread safety: as std::unique_ptr.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"

namespace outrider {

class HostBuffer {
 public:
  // RESOURCE_EXHAUSTED naming `what` and the bytes. 0 bytes give a buffer without data.
  static absl::StatusOr<HostBuffer> Allocate(int64_t bytes, const char* what);

  HostBuffer() = default;
  HostBuffer(HostBuffer&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
    other.data_ = nullptr;
    other.bytes_ = 0;
  }
  HostBuffer& operator=(HostBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~HostBuffer();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace outrider
