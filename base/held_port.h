// HeldPort keeps a TCP port for a server that starts later, or again, in this process or a child: as long as it is held
// the system gives it to nobody who asks for any port, to listen or to connect, and a server that sets SO_REUSEADDR, as
// gRPC's and Asio's do here, may listen on it all the same.
//
// Source: Linux, ip(7) and net/ipv4/inet_connection_sock.c: sockets that all set SO_REUSEADDR share a port as long as
// at most one of them listens.
//
// Thread safety: constant after Hold.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace outrider {

class HeldPort {
 public:
  // `port`, or a free one for 0, on the address that `host` names first. INVALID_ARGUMENT for a host that is none,
  // UNAVAILABLE naming address and reason if somebody listens there.
  static absl::StatusOr<HeldPort> Hold(const std::string& host, uint32_t port);
  HeldPort(HeldPort&& other) noexcept : fd_(std::exchange(other.fd_, -1)), port_(other.port_) {}
  HeldPort& operator=(HeldPort&&) = delete;
  ~HeldPort();

  uint32_t port() const { return port_; }

 private:
  HeldPort(int fd, uint32_t port) : fd_(fd), port_(port) {}
  int fd_;  // bound, does not listen; not inherited by programs that are started
  const uint32_t port_;
};

}  // namespace outrider
