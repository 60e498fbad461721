// Addresses of metrics pages as people write them, as base/page_client.h takes them.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace outrider {

// "localhost:9100" or ":9100" as "127.0.0.1:9100"; unix:PATH and digits as they are. Asks the resolver of the system,
// which may take seconds. INVALID_ARGUMENT for what is no address, UNAVAILABLE for a name that has no IPv4 address.
absl::StatusOr<std::string> ResolvePageAddress(const std::string& address);

}  // namespace outrider
