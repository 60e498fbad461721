#include "cli/http_client.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
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

}  // namespace

struct HttpClient::Core {
  std::string host, address, prefix, api_key;
  tcp::resolver::results_type endpoints;
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  std::vector<std::unique_ptr<beast::tcp_stream>> idle;  // of the thread
  std::thread thread;
};

class HttpClient::Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(Core& core, const std::string& path, std::string body, double timeout_s, Callbacks callbacks)
      : core_(core),
        timeout_s_(timeout_s),
        callbacks_(std::move(callbacks)),
        stream_(std::make_unique<beast::tcp_stream>(core.io)) {
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
      stream_ = std::move(core_.idle.back());
      core_.idle.pop_back();
    }
    Send(again);
  }

 private:
  void Send(bool again) {
    reused_ = again;
    if (timeout_s_ > 0) {
      stream_->expires_after(std::chrono::microseconds(static_cast<int64_t>(1e6 * timeout_s_)));
    } else {
      stream_->expires_never();
    }
    if (again) return Write();
    stream_->async_connect(core_.endpoints, [self = shared_from_this()](const Error& error, const tcp::endpoint&) {
      if (error) return self->End(Lost("connect", error));
      Error ignored;
      self->stream_->socket().set_option(tcp::no_delay(true), ignored);
      self->Write();
    });
  }

  void Write() {
    http::async_write(*stream_, request_, [self = shared_from_this()](const Error& error, size_t) {
      if (error) return self->Fail("write", error);
      self->parser_.emplace();
      self->parser_->body_limit(std::numeric_limits<uint64_t>::max());
      http::async_read_header(*self->stream_, self->buffer_, *self->parser_, [self](const Error& read_error, size_t) {
        if (read_error) return self->Fail("read", read_error);
        self->Read();
      });
    });
  }

  void Read() {
    if (parser_->is_done()) return End(static_cast<int>(parser_->get().result_int()));
    http::async_read_some(*stream_, buffer_, *parser_, [self = shared_from_this()](const Error& error, size_t) {
      std::string& body = self->parser_->get().body();
      if (!body.empty()) {
        self->callbacks_.on_body(static_cast<int>(self->parser_->get().result_int()), body);
        body.clear();
      }
      if (error == http::error::end_of_stream || error == http::error::partial_message) {
        return self->End(absl::UnavailableError("the connection was closed before the answer ended"));
      }
      if (error) return self->End(Lost("read", error));
      self->Read();
    });
  }

  // A server may close an idle connection at the moment it is used again.
  void Fail(const char* what, const Error& error) {
    if (!reused_ || error == beast::error::timeout) return End(Lost(what, error));
    stream_ = std::make_unique<beast::tcp_stream>(core_.io);
    buffer_.clear();
    Send(false);
  }

  void End(absl::StatusOr<int> status) {
    if (status.ok() && parser_->keep_alive() && buffer_.size() == 0 && core_.idle.size() < kIdleMax) {
      stream_->expires_never();
      core_.idle.push_back(std::move(stream_));
    }
    callbacks_.on_end(std::move(status));
  }

  Core& core_;
  const double timeout_s_;
  Callbacks callbacks_;
  std::unique_ptr<beast::tcp_stream> stream_;
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

absl::StatusOr<std::unique_ptr<HttpClient>> HttpClient::Make(const std::string& base_url, const std::string& api_key) {
  auto core = std::make_unique<Core>();
  absl::string_view rest = base_url;
  if (!absl::ConsumePrefix(&rest, "http://") || rest.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--base-url '", base_url, "' is not http://HOST:PORT; https is not offered here"));
  }
  rest = absl::StripSuffix(rest, "/");
  const size_t slash = rest.find('/');
  core->prefix = slash == absl::string_view::npos ? "" : std::string(rest.substr(slash));
  const std::string authority(rest.substr(0, slash));
  const size_t colon = authority.rfind(':');
  core->host = authority.substr(0, colon);
  uint32_t port = 80;
  if (core->host.empty() || (colon != std::string::npos &&
                             (!absl::SimpleAtoi(authority.substr(colon + 1), &port) || port == 0 || port > 65535))) {
    return absl::InvalidArgumentError(absl::StrCat("--base-url '", base_url, "' is not http://HOST:PORT"));
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
