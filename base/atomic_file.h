// Files that are there whole or not at all.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace outrider {

// Writes `content` to a temporary file beside `path` and renames it. UNAVAILABLE naming the path and the system's
// words.
absl::Status WriteFileAtomically(const std::string& path, const std::string& content);

}  // namespace outrider
