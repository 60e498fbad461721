// MappedFile: a file's bytes, mapped privately and read only.
//
// A file that is truncated while it is mapped ends the process (SIGBUS), as replacing a model in place always does:
// replace it by renaming.
//
// Thread safety: constant after construction.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace outrider {

class MappedFile {
 public:
  // `kind` ("GGUF") says in errors what to name. NOT_FOUND if there is none, INVALID_ARGUMENT if it can not be read or
  // is no regular file, DATA_LOSS if it is empty, RESOURCE_EXHAUSTED if it can not be mapped.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path, const char* kind);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  absl::Span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit MappedFile(absl::Span<const std::byte> bytes) : bytes_(bytes) {}
  const absl::Span<const std::byte> bytes_;
};

}  // namespace outrider
