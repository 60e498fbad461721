#include "base/held_port.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

namespace outrider {

absl::StatusOr<HeldPort> HeldPort::Hold(const std::string& host, uint32_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--host '", host, "': ", ::gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, ::freeaddrinfo);
  HeldPort held(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), 0);
  if (held.fd_ < 0) return absl::UnavailableError(absl::StrCat("socket: ", std::strerror(errno)));
  const int on = 1;
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (::setsockopt(held.fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      ::bind(held.fd_, found->ai_addr, found->ai_addrlen) != 0 ||
      ::getsockname(held.fd_, reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    return absl::UnavailableError(absl::StrCat("can not listen on ", host, ":", port, ": ", std::strerror(errno),
                                               "; choose another port, or 0 for a free one"));
  }
  const uint16_t bound_port = bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                                          : reinterpret_cast<sockaddr_in*>(&bound)->sin_port;
  return HeldPort(std::exchange(held.fd_, -1), ntohs(bound_port));
}

HeldPort::~HeldPort() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace outrider
