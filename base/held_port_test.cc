#include "base/held_port.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

class Socket {
 public:
  Socket() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  ~Socket() { ::close(fd_); }
  // 0, or errno.
  int Bind(uint32_t port, bool reuse) {
    const int on = reuse;
    EXPECT_EQ(::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
    const sockaddr_in address = Loopback(port);
    return ::bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
  }
  int Listen() { return ::listen(fd_, 1) == 0 ? 0 : errno; }
  int Connect(uint32_t port) {
    const sockaddr_in address = Loopback(port);
    return ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
  }

 private:
  static sockaddr_in Loopback(uint32_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    return address;
  }
  const int fd_;
};

TEST(HeldPort, IsForServersThatReuseAddressesAloneAndForTheNextOneToo) {
  const auto held = HeldPort::Hold("127.0.0.1", 0);
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_GT(held->port(), 0);
  EXPECT_EQ(Socket().Bind(held->port(), /*reuse=*/false), EADDRINUSE);
  for (int life = 0; life < 2; ++life) {
    Socket server, client;
    EXPECT_EQ(client.Connect(held->port()), ECONNREFUSED) << "nobody listens yet";
    ASSERT_EQ(server.Bind(held->port(), /*reuse=*/true), 0);
    ASSERT_EQ(server.Listen(), 0);
    EXPECT_EQ(Socket().Connect(held->port()), 0);
  }
}

TEST(HeldPort, IsGivenToOneHolderWhileItIsHeld) {
  const auto first = HeldPort::Hold("127.0.0.1", 0), second = HeldPort::Hold("127.0.0.1", 0);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(first->port(), second->port());
}

TEST(HeldPort, NamesWhatIsInUseAndWhatIsNoHost) {
  const auto held = HeldPort::Hold("127.0.0.1", 0);
  ASSERT_TRUE(held.ok());
  Socket server;
  ASSERT_EQ(server.Bind(held->port(), /*reuse=*/true), 0);
  ASSERT_EQ(server.Listen(), 0);
  const absl::Status in_use = HeldPort::Hold("127.0.0.1", held->port()).status();
  EXPECT_EQ(in_use.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(in_use.message(), absl::StrCat("127.0.0.1:", held->port(), ": Address already in use")))
      << in_use;
  EXPECT_EQ(HeldPort::Hold("no host", 0).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace outrider
