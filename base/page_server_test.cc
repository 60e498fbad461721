#include "base/page_server.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "base/page_client.h"

namespace outrider {
namespace {

// Short: a socket's path has 107 bytes at most.
std::string SocketFolder() {
  struct Folder {
    std::string path = "/tmp/outrider-XXXXXX";
    Folder() { EXPECT_NE(::mkdtemp(path.data()), nullptr); }
    ~Folder() { std::filesystem::remove_all(path); }
  };
  static const Folder folder;
  return folder.path;
}

int Connect(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

void Say(int fd, const std::string& text) {
  EXPECT_EQ(::send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
}

// All there is until the other end closes.
std::string Hear(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t size; (size = ::recv(fd, buffer, sizeof(buffer), 0)) > 0;) text.append(buffer, size);
  ::close(fd);
  return text;
}

std::string Ask(int port, const std::string& request) {
  const int fd = Connect(port);
  Say(fd, request);
  return Hear(fd);
}

std::unique_ptr<PageServer> Start(std::map<std::string, PageServer::MakePage> pages) {
  auto server = PageServer::Start("127.0.0.1", 0, std::move(pages));
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

TEST(PageServer, AnswersEachPathWithItsPage) {
  const auto server = Start(
      {{"/a", [] { return Page{.body = "page a"}; }}, {"/b", [] { return Page{.status = 503, .body = "page b"}; }}});
  const std::string a = Ask(server->port(), "GET /a?x=1 HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(a.substr(0, 15), "HTTP/1.1 200 OK");
  EXPECT_NE(a.find("Content-Length: 6\r\n"), std::string::npos) << a;
  EXPECT_EQ(a.substr(a.size() - 6), "page a");
  EXPECT_EQ(Ask(server->port(), "GET /b HTTP/1.0\r\n\r\n").substr(0, 12), "HTTP/1.1 503");
  EXPECT_EQ(Ask(server->port(), "GET /c HTTP/1.1\r\n\r\n").substr(0, 12), "HTTP/1.1 404");
  const std::string head = Ask(server->port(), "HEAD /a HTTP/1.1\r\n\r\n");
  EXPECT_EQ(head.substr(head.size() - 4), "\r\n\r\n");
}

TEST(PageServer, RefusesWhatIsNoRequestForAPage) {
  const auto server = Start({{"/a", [] { return Page{}; }}});
  EXPECT_EQ(Ask(server->port(), "\r\n\r\n").substr(0, 12), "HTTP/1.1 400");
  EXPECT_EQ(Ask(server->port(), "DELETE /a HTTP/1.1\r\n\r\n").substr(0, 12), "HTTP/1.1 405");
  EXPECT_EQ(Ask(server->port(), "GET /" + std::string(kMaxPageRequestBytes, 'a')).substr(0, 12), "HTTP/1.1 431");
}

TEST(PageServer, ServesOthersWhileAClientIsSilentAndEndsWithoutIt) {
  std::vector<int> silent;
  {
    const auto server = Start({{"/a", [] { return Page{.body = "page a"}; }}});
    for (int i = 0; i < kMaxPageConnections - 1; ++i) {
      silent.push_back(Connect(server->port()));
      Say(silent.back(), "GET /a");
    }
    EXPECT_NE(Ask(server->port(), "GET /a HTTP/1.1\r\n\r\n").find("page a"), std::string::npos);
  }  // returns though they are still there
  for (const int fd : silent) EXPECT_EQ(Hear(fd), "");
}

TEST(PageServer, SendsAPageOfAnySizeToAReaderThatIsSlow) {
  const std::string body(8 << 20, 'x');
  const auto server = Start({{"/a", [&] { return Page{.body = body}; }}});
  const int fd = Connect(server->port());
  Say(fd, "GET /a HTTP/1.1\r\n\r\n");
  EXPECT_NE(Ask(server->port(), "GET /b HTTP/1.1\r\n\r\n").find("404"), std::string::npos);
  EXPECT_GT(Hear(fd).size(), body.size());
}

TEST(FetchPages, BringsEachPageAndWaitsForNobodyBeyondItsBound) {
  const std::string socket = "unix:" + SocketFolder() + "/pages";
  const auto on_port = Start({{"/a", [] { return Page{.status = 503, .body = "page a"}; }}});
  const auto on_socket = PageServer::Start(socket, 0, {{"/a", [] { return Page{.body = std::string(1 << 20, 'x')}; }}});
  ASSERT_TRUE(on_socket.ok()) << on_socket.status();
  // Somebody who takes connections and says nothing, as a stopped process does.
  const int silent = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(::listen(silent, 8), 0);
  sockaddr_in bound{};
  socklen_t size = sizeof(bound);
  ::getsockname(silent, reinterpret_cast<sockaddr*>(&bound), &size);
  const auto address = [](int port) { return "127.0.0.1:" + std::to_string(port); };
  const auto pages = FetchPages({{address(on_port->port()), "/a"},
                                 {address(ntohs(bound.sin_port)), "/a"},
                                 {socket, "/a"},
                                 {"unix:/nowhere/at/all", "/a"},
                                 {"nonsense", "/a"}},
                                std::chrono::milliseconds(300));
  ::close(silent);
  ASSERT_EQ(pages.size(), 5u);
  ASSERT_TRUE(pages[0].ok()) << pages[0].status();
  EXPECT_EQ(pages[0]->status, 503);
  EXPECT_EQ(pages[0]->body, "page a");
  EXPECT_EQ(pages[1].status().code(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(pages[2].ok()) << pages[2].status();
  EXPECT_EQ(pages[2]->body.size(), size_t{1} << 20);
  EXPECT_EQ(pages[3].status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(pages[4].status().code(), absl::StatusCode::kUnavailable);
}

TEST(MetricsServer, TellsHealthBesideTheMetrics) {
  MetricsRegistry registry;
  ProcessHealth health;
  const auto server = MetricsServer::Start("127.0.0.1", 0, registry, &health);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto get = [&](const std::string& path) { return Ask((*server)->port(), "GET " + path + " HTTP/1.1\r\n\r\n"); };
  EXPECT_NE(get("/livez").find("200 OK"), std::string::npos);
  EXPECT_NE(get("/readyz").find("not ready: starting"), std::string::npos);
  std::string not_live, not_ready;
  health.Set([&] { return not_live; }, [&] { return not_ready; });
  EXPECT_NE(get("/readyz").find("200 OK"), std::string::npos);
  not_ready = "draining";
  EXPECT_NE(get("/livez").find("200 OK"), std::string::npos);
  EXPECT_NE(get("/readyz").find("503"), std::string::npos);
  EXPECT_NE(get("/readyz").find("not ready: draining"), std::string::npos);
  not_live = "no step for 10 s";
  EXPECT_NE(get("/livez").find("503"), std::string::npos);
  EXPECT_NE(get("/readyz").find("not live: no step for 10 s"), std::string::npos);
  health.Suspend("stopping");
  EXPECT_NE(get("/livez").find("200 OK"), std::string::npos);
  EXPECT_NE(get("/metrics").find("outrider_log_lines_lost_total"), std::string::npos);
}

TEST(MetricsServer, ListensOnAUnixSocketAlsoWhereOneWasLeft) {
  MetricsRegistry registry;
  const std::string path = "unix:" + SocketFolder() + "/metrics";
  auto first = MetricsServer::Start(path, 0, registry);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(MetricsServer::Start(path, 0, registry).ok());
  EXPECT_EQ(MetricsServer::Start("unix:" + std::string(200, 'x'), 0, registry).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace outrider
