// RuntimeFolder is the folder of a cluster's unix sockets: BASE/outrider-XXXXXX, which only this user may enter.
//
// It goes with the object. What a process killed by force left is removed by the next Make with the same base: the file
// `owner` in each folder is locked (flock) as long as its process lives.
//
// Thread safety: none needed; nothing changes after Make.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace outrider {

class RuntimeFolder {
 public:
  // $TMPDIR or /tmp; /tmp also where $TMPDIR is too long: a unix socket's path has at most 107 bytes.
  static std::string DefaultBase();

  // UNAVAILABLE if no folder can be made in `base`.
  static absl::StatusOr<std::unique_ptr<RuntimeFolder>> Make(const std::string& base);
  ~RuntimeFolder();
  RuntimeFolder(const RuntimeFolder&) = delete;
  RuntimeFolder& operator=(const RuntimeFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  RuntimeFolder(std::string path, int owner_fd) : path_(std::move(path)), owner_fd_(owner_fd) {}

  const std::string path_;
  const int owner_fd_;  // holds the lock; not inherited by programs that are started
};

}  // namespace outrider
