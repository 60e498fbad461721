#include "base/listening.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

namespace outrider {
namespace {

// Listens on a free port of 127.0.0.1 while it lives.
class Listener {
 public:
  Listener() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(fd_, 1), 0);
    EXPECT_EQ(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~Listener() { ::close(fd_); }
  int port() const { return port_; }

 private:
  const int fd_;
  int port_ = 0;
};

TEST(CheckCanListen, NamesAPortThatIsInUseAndTheSettingAndNotOneThatIsFreeAgain) {
  int port = 0;
  {
    const Listener other;
    port = other.port();
    const absl::Status status = CheckCanListen("127.0.0.1", port, "grpc_port");
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(status.message(), "can not listen on 127.0.0.1:" + std::to_string(port) + ": port " +
                                    std::to_string(port) +
                                    " is in use; choose another (setting grpc_port), or 0 for a free one");
    EXPECT_FALSE(CheckCanListen("0.0.0.0", port, "grpc_port").ok());
  }
  EXPECT_TRUE(CheckCanListen("127.0.0.1", port, "grpc_port").ok());
  EXPECT_TRUE(CheckCanListen("127.0.0.1", port, "grpc_port").ok()) << "it listens on it no longer";
}

TEST(CheckCanListen, TakesAnyFreePortSocketsOfFilesAndNamesOfThisMachine) {
  EXPECT_TRUE(CheckCanListen("127.0.0.1", 0, "grpc_port").ok());
  EXPECT_TRUE(CheckCanListen("unix:/no/such/folder/socket", 1, "grpc_port").ok()) << "for the server to tell";
  int port = 0;
  {
    const Listener other;
    port = other.port();
  }
  EXPECT_TRUE(CheckCanListen("localhost", port, "grpc_port").ok());
}

TEST(CheckCanListen, SaysThatAnAddressIsNotThisMachinesOrNoAddress) {
  // TEST-NET-1, which no machine has (RFC 5737).
  const absl::Status elsewhere = CheckCanListen("192.0.2.1", 50051, "grpc_port");
  EXPECT_EQ(elsewhere.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(elsewhere.message(),
            "can not listen on 192.0.2.1:50051 (setting grpc_port or host): Cannot assign requested address");
  const absl::Status nowhere = CheckCanListen("[::nonsense]", 50051, "grpc_port");
  EXPECT_EQ(nowhere.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(nowhere.message()).find("can not listen on [::nonsense]:50051: "), std::string::npos);
}

}  // namespace
}  // namespace outrider
