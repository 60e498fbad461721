#include "base/listening.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace outrider {

absl::Status CheckCanListen(const std::string& host, int port, const std::string& setting) {
  if (port == 0 || absl::StartsWith(host, "unix:")) return absl::OkStatus();
  const std::string address = absl::StrCat(host, ":", port);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo((bracketed ? host.substr(1, host.size() - 2) : host).c_str(),
                                      std::to_string(port).c_str(), &hints, &found);
      error != 0) {
    return absl::UnavailableError(absl::StrCat("can not listen on ", address, ": ", ::gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, ::freeaddrinfo);
  // A name may have several addresses (localhost: ::1 and 127.0.0.1). gRPC is content with one of them; so is this.
  int error = 0;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    const int fd = ::socket(each->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    const bool free = fd >= 0 && ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
                      ::bind(fd, each->ai_addr, each->ai_addrlen) == 0 && ::listen(fd, 1) == 0;
    if (!free && error != EADDRINUSE) error = errno;
    if (fd >= 0) ::close(fd);
    if (free) return absl::OkStatus();
  }
  if (error == EADDRINUSE) {
    return absl::UnavailableError(absl::StrCat("can not listen on ", address, ": port ", port,
                                               " is in use; choose another (setting ", setting,
                                               "), or 0 for a free one"));
  }
  return absl::UnavailableError(
      absl::StrCat("can not listen on ", address, " (setting ", setting, " or host): ", std::strerror(error)));
}

}  // namespace outrider
