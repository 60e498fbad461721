#include "base/page_server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

constexpr absl::string_view kUnixPrefix = "unix:";
// While something is open, how often it is looked at for its bound.
constexpr int kTickMs = 100;

const char* Phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    default:
      return "Internal Server Error";
  }
}

std::string ToHttp(const Page& page, bool with_body) {
  return absl::StrCat("HTTP/1.1 ", page.status, " ", Phrase(page.status), "\r\nContent-Type: ", page.content_type,
                      "\r\nContent-Length: ", page.body.size(), "\r\nConnection: close\r\n\r\n",
                      with_body ? page.body : std::string());
}

absl::Status CanNotListen(absl::string_view address, int error) {
  return absl::UnavailableError(absl::StrCat("metrics server can not listen on ", address,
                                             " (metrics_port in use or not allowed?): ", std::strerror(error)));
}

absl::StatusOr<int> ListenOnPath(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("metrics server: the socket path ", path, " has ", path.size(),
                                                   " bytes; 1 to ", sizeof(address.sun_path) - 1, " are allowed"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return CanNotListen(path, errno);
  ::unlink(path.c_str());
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 && ::listen(fd, SOMAXCONN) == 0) {
    return fd;
  }
  const int error = errno;
  ::close(fd);
  return CanNotListen(path, error);
}

absl::StatusOr<int> ListenOnPort(const std::string& host, int port) {
  const std::string address = absl::StrCat(host, ":", port);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0) {
    return absl::UnavailableError(
        absl::StrCat("metrics server can not listen on ", address, ": ", ::gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, ::freeaddrinfo);
  const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return CanNotListen(address, errno);
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(fd, found->ai_addr, found->ai_addrlen) == 0 && ::listen(fd, SOMAXCONN) == 0) return fd;
  const int error = errno;
  ::close(fd);
  return CanNotListen(address, error);
}

int PortOf(int fd) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  if (bound.ss_family == AF_INET) return ntohs(reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  if (bound.ss_family == AF_INET6) return ntohs(reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port);
  return 0;
}

}  // namespace

struct PageServer::Connection {
  TimePoint deadline;
  std::string received;
  std::string answer;  // empty: the request is still coming
  size_t num_sent = 0;
};

absl::StatusOr<std::unique_ptr<PageServer>> PageServer::Start(const std::string& host, int port,
                                                              std::map<std::string, MakePage> pages) {
  absl::string_view path = host;
  const bool is_path = path.substr(0, kUnixPrefix.size()) == kUnixPrefix;
  if (is_path) path.remove_prefix(kUnixPrefix.size());
  ASSIGN_OR_RETURN(const int listen_fd, is_path ? ListenOnPath(std::string(path)) : ListenOnPort(host, port));
  const int wake_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  CHECK(wake_fd >= 0);
  auto server = std::unique_ptr<PageServer>(new PageServer(std::move(pages), listen_fd, wake_fd, PortOf(listen_fd)));
  server->thread_ = std::thread([s = server.get()] { s->Run(); });
  return server;
}

PageServer::PageServer(std::map<std::string, MakePage> pages, int listen_fd, int wake_fd, int port)
    : pages_(std::move(pages)), listen_fd_(listen_fd), wake_fd_(wake_fd), port_(port) {}

PageServer::~PageServer() {
  const uint64_t one = 1;
  CHECK(::write(wake_fd_, &one, sizeof(one)) == sizeof(one));
  thread_.join();
  ::close(listen_fd_);
  ::close(wake_fd_);
}

void PageServer::Run() {
  std::map<int, Connection> connections;  // by file descriptor
  std::vector<pollfd> polled;
  while (true) {
    polled.assign({{wake_fd_, POLLIN, 0}});
    const bool has_room = connections.size() < static_cast<size_t>(kMaxPageConnections);
    polled.push_back({has_room ? listen_fd_ : -1, POLLIN, 0});
    for (const auto& [fd, connection] : connections) {
      polled.push_back({fd, static_cast<short>(connection.answer.empty() ? POLLIN : POLLOUT), 0});
    }
    ::poll(polled.data(), polled.size(), connections.empty() ? -1 : kTickMs);
    if (polled[0].revents != 0) break;
    for (size_t i = 2; i < polled.size(); ++i) {
      const auto connection = connections.find(polled[i].fd);
      const bool is_over = polled[i].revents != 0 && !Advance(polled[i].fd, connection->second);
      if (!is_over && std::chrono::steady_clock::now() < connection->second.deadline) continue;
      ::close(polled[i].fd);
      connections.erase(connection);
    }
    if (polled[1].revents != 0) Accept(connections);
  }
  for (const auto& [fd, connection] : connections) ::close(fd);
}

void PageServer::Accept(std::map<int, Connection>& connections) {
  const int fd = ::accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    // Without file descriptors the client stays in the queue: do not spin on it.
    if (errno == EMFILE || errno == ENFILE) ::usleep(10'000);
    return;
  }
  connections[fd].deadline = std::chrono::steady_clock::now() + kPageConnectionBound;
}

bool PageServer::Advance(int fd, Connection& connection) const {
  if (connection.answer.empty()) {
    char buffer[4096];
    const ssize_t size = ::recv(fd, buffer, sizeof(buffer), 0);
    if (size <= 0) return size < 0 && (errno == EAGAIN || errno == EINTR);
    connection.received.append(buffer, static_cast<size_t>(size));
    const bool is_whole = connection.received.find("\r\n\r\n") != std::string::npos;
    if (!is_whole && connection.received.size() < kMaxPageRequestBytes) return true;
    connection.answer = is_whole ? Answer(connection.received) : ToHttp({.status = 431, .body = "too long\n"}, true);
  }
  const absl::string_view rest = absl::string_view(connection.answer).substr(connection.num_sent);
  const ssize_t sent = ::send(fd, rest.data(), rest.size(), MSG_NOSIGNAL);
  if (sent < 0) return errno == EAGAIN || errno == EINTR;
  connection.num_sent += static_cast<size_t>(sent);
  return connection.num_sent < connection.answer.size();
}

std::string PageServer::Answer(const std::string& request) const {
  const absl::string_view line = absl::string_view(request).substr(0, request.find("\r\n"));
  const size_t method_end = line.find(' ');
  const size_t target_end = method_end == absl::string_view::npos ? method_end : line.find(' ', method_end + 1);
  if (target_end == absl::string_view::npos) return ToHttp({.status = 400, .body = "not HTTP\n"}, true);
  const absl::string_view method = line.substr(0, method_end);
  if (method != "GET" && method != "HEAD") return ToHttp({.status = 405, .body = "GET and HEAD only\n"}, true);
  absl::string_view path = line.substr(method_end + 1, target_end - method_end - 1);
  path = path.substr(0, path.find('?'));
  const auto page = pages_.find(std::string(path));
  if (page == pages_.end()) return ToHttp({.status = 404, .body = "no such page\n"}, method == "GET");
  return ToHttp(page->second(), method == "GET");
}

}  // namespace outrider
