// Whether a server could listen, asked before a library is told to: gRPC tells the reason only to its own log.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace outrider {

// OK if somebody may listen on `host`:`port` now; it is free again when this returns. Port 0, and hosts unix:PATH, are
// always OK. UNAVAILABLE naming address, reason, and `setting` as what to change.
//
// Thread safety: yes.
absl::Status CheckCanListen(const std::string& host, int port, const std::string& setting);

}  // namespace outrider
