// Addresses of unix sockets for tests: short wherever the tests run, for a socket's path has at most 107 bytes.
#pragma once

#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <string>

#include "base/status_macros.h"

namespace outrider {

// unix:PATH, a new one at each call, in a folder of this process that goes with it. Thread-safe.
inline std::string NewSocketAddress() {
  struct Folder {
    std::string path = "/tmp/outrider-XXXXXX";
    Folder() { CHECK(mkdtemp(path.data()) != nullptr); }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static const Folder folder;
  static std::atomic<int> last{0};
  return "unix:" + folder.path + "/" + std::to_string(++last);
}

}  // namespace outrider
