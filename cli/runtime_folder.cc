#include "cli/runtime_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

constexpr char kPrefix[] = "outrider-";
constexpr char kOwner[] = "/owner";
constexpr size_t kBaseBytesMax = 54;

// Removes what processes of this user left in `base` when they were killed. Folders without an owner file are being
// made, or are not ours to judge.
void RemoveAbandoned(const std::string& base) {
  std::error_code error;
  for (std::filesystem::directory_iterator it(base, error), end; !error && it != end; it.increment(error)) {
    const std::string path = it->path().string();
    struct stat info;
    if (!absl::StartsWith(it->path().filename().string(), kPrefix) || ::lstat(path.c_str(), &info) != 0 ||
        !S_ISDIR(info.st_mode) || info.st_uid != ::geteuid()) {
      continue;
    }
    const int fd = ::open(absl::StrCat(path, kOwner).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) continue;
    std::error_code ignored;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) std::filesystem::remove_all(path, ignored);
    ::close(fd);
  }
}

absl::Status CanNotMake(const std::string& path) {
  return absl::UnavailableError(
      absl::StrCat("can not make a folder ", path, ": ", std::strerror(errno), "; set TMPDIR to a writable one"));
}

}  // namespace

std::string RuntimeFolder::DefaultBase() {
  const char* base = std::getenv("TMPDIR");
  return base != nullptr && *base != '\0' && std::strlen(base) <= kBaseBytesMax ? base : "/tmp";
}

absl::StatusOr<std::unique_ptr<RuntimeFolder>> RuntimeFolder::Make(const std::string& base) {
  RemoveAbandoned(base);
  std::string path = absl::StrCat(base, "/", kPrefix, "XXXXXX");
  if (::mkdtemp(path.data()) == nullptr) return CanNotMake(path);
  // Locked before it has its name, so that nobody ever finds it free.
  const std::string owner = absl::StrCat(path, kOwner), unnamed = absl::StrCat(owner, ".new");
  const int fd = ::open(unnamed.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ::flock(fd, LOCK_EX | LOCK_NB) != 0 || ::rename(unnamed.c_str(), owner.c_str()) != 0) {
    const absl::Status status = CanNotMake(path);
    if (fd >= 0) ::close(fd);
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
    return status;
  }
  return std::unique_ptr<RuntimeFolder>(new RuntimeFolder(path, fd));
}

RuntimeFolder::~RuntimeFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
  ::close(owner_fd_);
}

}  // namespace outrider
