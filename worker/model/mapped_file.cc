#include "worker/model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace outrider {

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path, const char* kind) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const std::string message = absl::StrCat(path, ": ", std::strerror(errno), "; name an existing ", kind, " file");
    return errno == ENOENT ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }
  struct stat status;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file; name a ", kind, " file"));
  }
  if (status.st_size == 0) {
    close(fd);
    return absl::DataLossError(absl::StrCat(path, ": empty file; fetch the file again"));
  }
  const size_t size = static_cast<size_t>(status.st_size);
  void* mapping = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int map_error = errno;
  close(fd);
  if (mapping == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": can not map ", size, " bytes: ", std::strerror(map_error)));
  }
  return std::unique_ptr<MappedFile>(new MappedFile(absl::MakeConstSpan(static_cast<const std::byte*>(mapping), size)));
}

MappedFile::~MappedFile() { munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }

}  // namespace outrider
