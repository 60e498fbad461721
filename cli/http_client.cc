#include "cli/http_client.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <future>
#include <limits>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace outrider {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using Error = beast::error_code;

constexpr size_t kReplyBytesMax = 64 << 20;
constexpr size_t kIdleMax = 1024;

absl::Status Lost(const char* what, const Error& error) {
  if (error == beast::error::timeout) return absl::DeadlineExceededError("it took longer than --timeout");
  return absl::UnavailableError(absl::StrCat(what, ": ", error.message()));
}

// A connection, with TLS over it or without.
struct Connection {
  Connection(asio::io_context& io, std::optional<asio::ssl::context>& context) : tcp(io) {
    if (context.has_value()) tls.emplace(tcp, *context);
  }
  // `call` with what carries the exchange's bytes.
  template <typename Call>
  void With(Call call) {
    if (tls.has_value()) {
      call(*tls);
    } else {
      call(tcp);
    }
  }
  beast::tcp_stream tcp;
  std::optional<asio::ssl::stream<beast::tcp_stream&>> tls;
};

absl::Status MakeTlsContext(const TlsFiles& files, std::optional<asio::ssl::context>* context) {
  if (absl::Status status = CheckTlsFiles(files, "tls"); !status.ok()) return status;
  context->emplace(asio::ssl::context::tls_client);
  Error error;
  const auto failed = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat("'", what, "' can not be used: ", error.message()));
  };
  (*context)->set_verify_mode(asio::ssl::verify_peer);
  if (files.authorities.empty()) {
    (*context)->set_default_verify_paths(error);
    if (error) return failed("this system's authorities");
  } else if ((*context)->load_verify_file(files.authorities, error); error) {
    return failed(files.authorities);
  }
  if (files.certificate.empty()) return absl::OkStatus();
  if ((*context)->use_certificate_chain_file(files.certificate, error); error) return failed(files.certificate);
  if ((*context)->use_private_key_file(files.private_key, asio::ssl::context::pem, error); error) {
    return failed(files.private_key);
  }
  return absl::OkStatus();
}

}  // namespace

struct HttpClient::Core {
  std::string host, address, prefix, api_key;
  tcp::resolver::results_type endpoints;
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  std::optional<asio::ssl::context> tls;          // none: plain
  std::vector<std::unique_ptr<Connection>> idle;  // of the thread
  std::thread thread;
};

class HttpClient::Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(Core& core, const std::string& path, std::string body, double timeout_s, Callbacks callbacks)
      : core_(core),
        timeout_s_(timeout_s),
        callbacks_(std::move(callbacks)),
        connection_(std::make_unique<Connection>(core.io, core.tls)) {
    request_.method(body.empty() ? http::verb::get : http::verb::post);
    request_.target(core.prefix + path);
    request_.version(11);
    request_.set(http::field::host, core.address);
    request_.set(http::field::user_agent, "outrider-bench");
    if (!core.api_key.empty()) request_.set(http::field::authorization, "Bearer " + core.api_key);
    if (!body.empty()) request_.set(http::field::content_type, "application/json");
    request_.body() = std::move(body);
    request_.prepare_payload();
  }

  void Begin() {
    if (callbacks_.on_sent) callbacks_.on_sent();
    const bool again = !core_.idle.empty();
    if (again) {
      connection_ = std::move(core_.idle.back());
      core_.idle.pop_back();
    }
    Send(again);
  }

 private:
  void Send(bool again) {
    reused_ = again;
    if (timeout_s_ > 0) {
      connection_->tcp.expires_after(std::chrono::microseconds(static_cast<int64_t>(1e6 * timeout_s_)));
    } else {
      connection_->tcp.expires_never();
    }
    if (again) return Write();
    connection_->tcp.async_connect(core_.endpoints,
                                   [self = shared_from_this()](const Error& error, const tcp::endpoint&) {
                                     if (error) return self->End(Lost("connect", error));
                                     Error ignored;
                                     self->connection_->tcp.socket().set_option(tcp::no_delay(true), ignored);
                                     self->ShakeHands();
                                   });
  }

  void ShakeHands() {
    if (!connection_->tls.has_value()) return Write();
    auto& tls = *connection_->tls;
    SSL_set_tlsext_host_name(tls.native_handle(), core_.host.c_str());
    tls.set_verify_callback(asio::ssl::host_name_verification(core_.host));
    tls.async_handshake(asio::ssl::stream_base::client, [self = shared_from_this()](const Error& error) {
      if (error) return self->End(Lost("TLS handshake", error));
      self->Write();
    });
  }

  void Write() {
    connection_->With([this](auto& stream) {
      http::async_write(stream, request_, [self = shared_from_this()](const Error& error, size_t) {
        if (error) return self->Fail("write", error);
        self->ReadHeader();
      });
    });
  }

  void ReadHeader() {
    parser_.emplace();
    parser_->body_limit(std::numeric_limits<uint64_t>::max());
    connection_->With([this](auto& stream) {
      http::async_read_header(stream, buffer_, *parser_, [self = shared_from_this()](const Error& error, size_t) {
        if (error) return self->Fail("read", error);
        self->Read();
      });
    });
  }

  void Read() {
    if (parser_->is_done()) return End(static_cast<int>(parser_->get().result_int()));
    connection_->With([this](auto& stream) {
      http::async_read_some(stream, buffer_, *parser_,
                            [self = shared_from_this()](const Error& error, size_t) { self->OnRead(error); });
    });
  }

  void OnRead(const Error& error) {
    std::string& body = parser_->get().body();
    if (!body.empty()) {
      callbacks_.on_body(static_cast<int>(parser_->get().result_int()), body);
      body.clear();
    }
    if (error == http::error::end_of_stream || error == http::error::partial_message ||
        error == asio::ssl::error::stream_truncated) {
      return End(absl::UnavailableError("the connection was closed before the answer ended"));
    }
    if (error) return End(Lost("read", error));
    Read();
  }

  // A server may close an idle connection at the moment it is used again.
  void Fail(const char* what, const Error& error) {
    if (!reused_ || error == beast::error::timeout) return End(Lost(what, error));
    connection_ = std::make_unique<Connection>(core_.io, core_.tls);
    buffer_.clear();
    Send(false);
  }

  void End(absl::StatusOr<int> status) {
    if (status.ok() && parser_->keep_alive() && buffer_.size() == 0 && core_.idle.size() < kIdleMax) {
      connection_->tcp.expires_never();
      core_.idle.push_back(std::move(connection_));
    }
    callbacks_.on_end(std::move(status));
  }

  Core& core_;
  const double timeout_s_;
  Callbacks callbacks_;
  std::unique_ptr<Connection> connection_;
  beast::flat_buffer buffer_;
  http::request<http::string_body> request_;
  std::optional<http::response_parser<http::string_body>> parser_;
  bool reused_ = false;
};

HttpClient::HttpClient(std::unique_ptr<Core> core) : core_(std::move(core)) {}

HttpClient::~HttpClient() {
  core_->io.stop();
  core_->thread.join();
}

absl::StatusOr<std::unique_ptr<HttpClient>> HttpClient::Make(const std::string& base_url, const std::string& api_key,
                                                             const TlsFiles& tls) {
  auto core = std::make_unique<Core>();
  absl::string_view rest = base_url;
  const bool is_secure = absl::ConsumePrefix(&rest, "https://");
  if ((!is_secure && !absl::ConsumePrefix(&rest, "http://")) || rest.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--base-url '", base_url, "' is not http://HOST:PORT or https://HOST:PORT"));
  }
  if (is_secure) {
    if (absl::Status status = MakeTlsContext(tls, &core->tls); !status.ok()) return status;
  } else if (!tls.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--base-url '", base_url, "' is without TLS; the TLS files want https://"));
  }
  rest = absl::StripSuffix(rest, "/");
  const size_t slash = rest.find('/');
  core->prefix = slash == absl::string_view::npos ? "" : std::string(rest.substr(slash));
  const std::string authority(rest.substr(0, slash));
  const size_t colon = authority.rfind(':');
  core->host = authority.substr(0, colon);
  uint32_t port = is_secure ? 443 : 80;
  if (core->host.empty() || (colon != std::string::npos &&
                             (!absl::SimpleAtoi(authority.substr(colon + 1), &port) || port == 0 || port > 65535))) {
    return absl::InvalidArgumentError(
        absl::StrCat("--base-url '", base_url, "' is not http://HOST:PORT or https://HOST:PORT"));
  }
  core->address = absl::StrCat(core->host, ":", port);
  core->api_key = api_key;
  Error error;
  core->endpoints = tcp::resolver(core->io).resolve(core->host, absl::StrCat(port), error);
  if (error) return absl::UnavailableError(absl::StrCat("'", core->host, "' has no address: ", error.message()));
  core->thread = std::thread([io = &core->io] { io->run(); });
  return std::unique_ptr<HttpClient>(new HttpClient(std::move(core)));
}

const std::string& HttpClient::address() const { return core_->address; }

void HttpClient::Start(const std::string& path, std::string body, double timeout_s, Callbacks callbacks) {
  auto exchange = std::make_shared<Exchange>(*core_, path, std::move(body), timeout_s, std::move(callbacks));
  asio::post(core_->io, [exchange = std::move(exchange)] { exchange->Begin(); });
}

absl::StatusOr<HttpReply> HttpClient::Call(const std::string& path, std::string body, double timeout_s) {
  // Shared with the exchange, which may outlive this call in no way but that nobody waits for it.
  struct Answer {
    std::string body;
    std::promise<absl::StatusOr<int>> status;
  };
  const auto answer = std::make_shared<Answer>();
  Start(path, std::move(body), timeout_s,
        {.on_sent = nullptr,
         .on_body =
             [answer](int, const std::string& bytes) {
               if (answer->body.size() + bytes.size() <= kReplyBytesMax) answer->body += bytes;
             },
         .on_end = [answer](absl::StatusOr<int> status) { answer->status.set_value(std::move(status)); }});
  absl::StatusOr<int> status = answer->status.get_future().get();
  if (!status.ok()) return status.status();
  return HttpReply{*status, std::move(answer->body)};
}

}  // namespace outrider
