// PageServer shows a few pages over HTTP: GET and HEAD, one request a connection. For metrics and health, read by
// machines near by; nothing more of HTTP is spoken.
//
// One thread does everything, so a page is made while no other is served: pages must be quick or say their bound. A
// client may be slow or silent: it holds one of kMaxPageConnections places for kPageConnectionBound, then it is cut.
// Clients beyond wait in the system's queue. Destruction does not wait for clients.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace outrider {

inline constexpr int kMaxPageConnections = 64;
inline constexpr Duration kPageConnectionBound = std::chrono::seconds(5);
// Of a request's head; longer ones are answered 431.
inline constexpr size_t kMaxPageRequestBytes = 8192;

struct Page {
  int status = 200;
  std::string body;
  std::string content_type = "text/plain; charset=utf-8";
};

// Thread safety: all methods, from any thread. Pages are made on the server's thread.
class PageServer {
 public:
  using MakePage = std::function<Page()>;

  // `host` is a name, an address, or unix:PATH, which has no port and replaces a socket left there. Port 0 takes a free
  // one. `pages` by path, such as "/metrics"; others are 404. UNAVAILABLE naming the address if it can not be bound.
  static absl::StatusOr<std::unique_ptr<PageServer>> Start(const std::string& host, int port,
                                                           std::map<std::string, MakePage> pages);
  // At once, whatever clients do; a page that is being made is waited for.
  ~PageServer();
  PageServer(const PageServer&) = delete;
  PageServer& operator=(const PageServer&) = delete;

  int port() const { return port_; }  // 0 for a unix socket

 private:
  struct Connection;

  PageServer(std::map<std::string, MakePage> pages, int listen_fd, int wake_fd, int port);
  void Run();
  void Accept(std::map<int, Connection>& connections);
  // False once the connection is over.
  bool Advance(int fd, Connection& connection) const;
  std::string Answer(const std::string& request) const;

  const std::map<std::string, MakePage> pages_;
  const int listen_fd_;
  const int wake_fd_;
  const int port_;
  std::thread thread_;
};

}  // namespace outrider
