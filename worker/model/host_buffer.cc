#include "worker/model/host_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace outrider {

absl::StatusOr<HostBuffer> HostBuffer::Allocate(int64_t bytes, const char* what) {
  HostBuffer buffer;
  if (bytes <= 0) return buffer;
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", bytes, " bytes of ", what, ": ", std::strerror(errno)));
  }
  madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a wish; systems without it are only slower
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
  return buffer;
}

HostBuffer::~HostBuffer() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
}

}  // namespace outrider
