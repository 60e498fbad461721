#include "router/testing/swallowing_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider::router {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

}  // namespace

SwallowingProxy::SwallowingProxy(int port) : port_(port) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0 && ::listen(listener_, 16) == 0);
  CHECK(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  own_port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

SwallowingProxy::~SwallowingProxy() {
  stopped_ = true;
  ::shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  std::vector<std::thread> pumps;
  {
    MutexLock lock(mu_);
    for (const int socket : sockets_) ::shutdown(socket, SHUT_RDWR);
    pumps.swap(pumps_);
  }
  for (std::thread& pump : pumps) pump.join();
  MutexLock lock(mu_);
  for (const int socket : sockets_) ::close(socket);
  ::close(listener_);
}

std::string SwallowingProxy::address() const { return absl::StrCat("127.0.0.1:", own_port_); }

void SwallowingProxy::Accept() {
  while (!stopped_) {
    const int near = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (near < 0) continue;
    const int far = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address = Loopback(port_);
    if (::connect(far, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      ::close(near);
      ::close(far);
      continue;
    }
    MutexLock lock(mu_);
    const int index = num_connections_++;
    sockets_.insert(sockets_.end(), {near, far});
    pumps_.emplace_back([=, this] { Pump(index, near, far); });
    pumps_.emplace_back([=, this] { Pump(index, far, near); });
  }
}

void SwallowingProxy::Pump(int index, int from, int to) {
  char buffer[16384];
  while (true) {
    const ssize_t size = ::read(from, buffer, sizeof(buffer));
    const bool swallows = index < swallows_before_;
    if (size <= 0) {
      if (!swallows) ::shutdown(to, SHUT_WR);
      return;
    }
    if (swallows) {
      num_bytes_swallowed_ += size;
      continue;
    }
    for (ssize_t done = 0; done < size;) {
      const ssize_t written = ::send(to, buffer + done, static_cast<size_t>(size - done), MSG_NOSIGNAL);
      if (written <= 0) return;
      done += written;
    }
  }
}

}  // namespace outrider::router
