// HttpClient calls an HTTP or HTTPS server from a thread of its own: many exchanges at once over connections that are
// used again, bodies handed on as they come. It is for measuring, so nothing is tried twice but on a connection that
// the server closed before it was used again.
//
// Thread safety: Start and Call may be called from any thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "security/tls.h"

namespace outrider {

struct HttpReply {
  int status = 0;
  std::string body;
};

class HttpClient {
 public:
  // "http://HOST[:PORT][/PATH]" or https, without a slash at its end. INVALID_ARGUMENT: no such URL, or a file of `tls`
  // that can not be used; UNAVAILABLE: the host has no address. `api_key` goes with each request as a bearer token;
  // empty: none. `tls`: whom to believe (else this system's authorities) and what to show; the server's certificate
  // must name HOST.
  static absl::StatusOr<std::unique_ptr<HttpClient>> Make(const std::string& base_url, const std::string& api_key,
                                                          const TlsFiles& tls = {});
  // Exchanges that are open are given up without a word.
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // HOST:PORT
  const std::string& address() const;

  // The callbacks run on the client's thread. `on_sent` when the exchange begins, before it connects; `on_body` with
  // pieces of the body; `on_end` once, last: the status, or an error of the connection.
  struct Callbacks {
    std::function<void()> on_sent;
    std::function<void(int status, const std::string& bytes)> on_body;
    std::function<void(absl::StatusOr<int> status)> on_end;
  };
  // POSTs `body`, or GETs if it is empty. `path` goes behind the base URL's. `timeout_s` is of the whole exchange; 0:
  // none.
  void Start(const std::string& path, std::string body, double timeout_s, Callbacks callbacks);

  // The whole answer, of 64 MiB at most.
  absl::StatusOr<HttpReply> Call(const std::string& path, std::string body, double timeout_s);

 private:
  struct Core;
  class Exchange;
  explicit HttpClient(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace outrider
