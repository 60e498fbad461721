// HttpServer speaks HTTP/1.1 (Boost.Beast parses, Boost.Asio waits) and hands requests to an HttpHandler: a few
// threads, any number of connections, memory in proportion to what they send.
//
// Bounds, each answered before the connection ends: the head (431) and the body of a request (413), the bytes of all
// bodies together (503), the time for a head or a body to come (408; a handshake of TLS: the connection ends),
// connections (503). A client that takes nothing of an answer for Options::write_timeout is cut. Requests that come
// before the answer to the one before (pipelining) wait in the connection's buffer.
//
// A connection is read while its request is answered: when the client leaves, the exchange hears of it at once. A
// client that shuts down its sending side counts as gone.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "router/http/http_message.h"
#include "security/tls_context.h"

namespace outrider::router {

class HttpServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    uint32_t port = 0;  // 0: a free one
    int num_threads = 2;
    int max_connections = 16384;
    size_t max_head_bytes = 32768;
    size_t max_body_bytes = size_t{16} << 20;
    size_t max_all_body_bytes = size_t{256} << 20;
    Duration idle_timeout = std::chrono::seconds(75);
    Duration head_timeout = std::chrono::seconds(10);
    Duration body_timeout = std::chrono::seconds(60);
    Duration write_timeout = std::chrono::seconds(60);
    // An exchange hears OnQuiet after so long without a write.
    Duration quiet_interval = std::chrono::seconds(10);
    // Null: without TLS. Outlives the server.
    TlsContext* tls = nullptr;
  };

  // UNAVAILABLE naming the address if it can not be bound. `handler` outlives the server.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const Options& options, HttpHandler* handler);
  // As Shutdown; then waits for the threads.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  const std::string& address() const;  // HOST:PORT
  int num_connections() const;

  // Connections without a request end; others end with their answers. New ones are taken, to be answered so.
  void StartDrain();
  // Ends all connections at once; exchanges hear OnClientGone.
  void Shutdown();

 private:
  struct Core;  // http_server.cc
  explicit HttpServer(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace outrider::router
