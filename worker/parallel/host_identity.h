// Which processes can share memory: a text that is equal on those of one running system, network namespace (abstract
// sockets live in one) and user.
#pragma once

#include <string>

namespace outrider {

std::string HostIdentity();

}  // namespace outrider
