// Tells whether a file changed without reading it.
#pragma once

#include <string>

namespace outrider {

// Differs between files that are written anew or moved into each other's place at `path`, links followed; empty if
// there is none. Thread safety: any thread.
std::string FileStamp(const std::string& path);

}  // namespace outrider
