#include "router/http/http_connection.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/field.hpp>
#include <ctime>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace outrider::router {
namespace {

namespace http = boost::beast::http;

constexpr char kTraceparent[] = "Traceparent";
constexpr size_t kReadBytes = 4096;
constexpr size_t kReadBytesOfBody = 65536;
// Buffers of more are given back between requests.
constexpr size_t kKeptBytes = 16384;
constexpr Duration kLinger = std::chrono::seconds(2);
// A slow client may take longer for more: the write timeout is extended by a second for so many bytes.
constexpr size_t kSlowBytesPerSecond = 65536;

TimePoint Now() { return std::chrono::steady_clock::now(); }

absl::string_view View(boost::beast::string_view view) { return {view.data(), view.size()}; }

// Now, as HTTP has dates.
std::string HttpDate() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[40];
  const size_t size = std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return std::string(text, size);
}

struct Refusal {
  int status;
  std::string why;
};
Refusal RefusalOf(const boost::system::error_code& error, const HttpServer::Options& options) {
  if (error == http::error::header_limit) {
    return {431, absl::StrCat("the head of the request has more than ", options.max_head_bytes, " bytes; send less")};
  }
  if (error == http::error::body_limit) {
    return {413, absl::StrCat("the body of the request has more than ", options.max_body_bytes,
                              " bytes; send less, or raise max_message_bytes")};
  }
  if (error == http::error::bad_version) return {505, "this server speaks HTTP/1.1 and 1.0"};
  return {400, absl::StrCat("this is not HTTP: ", error.message())};
}

}  // namespace

HttpConnection::HttpConnection(Socket socket, std::shared_ptr<boost::asio::ssl::context> tls,
                               const HttpConnectionEnvironment* environment)
    : environment_(environment),
      socket_(std::move(socket)),
      tls_context_(std::move(tls)),
      timer_(socket_.get_executor()) {}

HttpConnection::~HttpConnection() { ReleaseBody(); }

void HttpConnection::Start() {
  Post([this] {
    boost::system::error_code ignored;
    socket_.set_option(boost::asio::ip::tcp::no_delay(true), ignored);
    if (tls_context_ == nullptr) return Begin();
    read_deadline_ = Now() + environment_->options->head_timeout;
    tls_ = std::make_unique<boost::asio::ssl::stream<Socket&>>(socket_, *tls_context_);
    reading_ = true;
    tls_->async_handshake(boost::asio::ssl::stream_base::server,
                          [self = shared_from_this()](const boost::system::error_code& error) {
                            self->reading_ = false;
                            if (self->phase_ == Phase::kClosed) return;
                            error ? self->Close() : self->Begin();
                          });
    ArmTimer();
  });
}

void HttpConnection::Begin() {
  read_deadline_ = Now() + environment_->options->idle_timeout;
  Read();
  ArmTimer();
}

void HttpConnection::Drain() {
  Post([this] {
    if (phase_ == Phase::kIdle) Close();
  });
}

void HttpConnection::Shutdown() {
  Post([this] { Lose(); });
}

void HttpConnection::Post(std::function<void()> work) {
  boost::asio::post(socket_.get_executor(), [self = shared_from_this(), work = std::move(work)] { work(); });
}

void HttpConnection::Read() {
  // Between a request and its answer a head's worth of further ones is taken, no more.
  if (reading_ || phase_ == Phase::kClosed ||
      buffer_.size() >= environment_->options->max_head_bytes + kReadBytesOfBody)
    return;
  if (phase_ == Phase::kAnswering && buffer_.size() >= environment_->options->max_head_bytes) return;
  reading_ = true;
  const size_t num_bytes = phase_ == Phase::kBody || phase_ == Phase::kLingering ? kReadBytesOfBody : kReadBytes;
  read_bytes_.resize(num_bytes);
  auto on_read = [self = shared_from_this()](const boost::system::error_code& error, size_t count) {
    self->OnRead(error, count);
  };
  if (tls_ != nullptr) {
    tls_->async_read_some(boost::asio::buffer(read_bytes_), std::move(on_read));
  } else {
    socket_.async_read_some(boost::asio::buffer(read_bytes_), std::move(on_read));
  }
}

void HttpConnection::OnRead(const boost::system::error_code& error, size_t num_bytes) {
  reading_ = false;
  if (phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kLingering && tls_ != nullptr) {
    EndTls();
    return;
  }
  if (error) {
    Lose();
    return;
  }
  if (phase_ != Phase::kLingering) {
    buffer_.commit(
        boost::asio::buffer_copy(buffer_.prepare(num_bytes), boost::asio::buffer(read_bytes_.data(), num_bytes)));
  }
  if (read_bytes_.size() > kReadBytes) read_bytes_ = {};
  if (phase_ != Phase::kLingering && phase_ != Phase::kAnswering) Process();
  Read();
  ArmTimer();
}

void HttpConnection::Process() {
  while (phase_ == Phase::kIdle || phase_ == Phase::kHead || phase_ == Phase::kBody) {
    if (phase_ == Phase::kIdle) {
      if (buffer_.size() == 0) return;
      phase_ = Phase::kHead;
      read_deadline_ = Now() + environment_->options->head_timeout;
      parser_.emplace();
      parser_->header_limit(static_cast<uint32_t>(environment_->options->max_head_bytes));
      parser_->body_limit(environment_->options->max_body_bytes);
      parser_->eager(false);
    }
    if (!parser_->is_done()) {
      boost::system::error_code error;
      buffer_.consume(parser_->put(buffer_.data(), error));
      if (error == http::error::need_more) return;
      if (error) {
        const Refusal refusal = RefusalOf(error, *environment_->options);
        Refuse(refusal.status, refusal.why);
        return;
      }
    }
    if (phase_ == Phase::kHead) {
      if (!parser_->is_header_done()) continue;
      if (!OnHead()) return;
    }
    if (!CountBody()) return;
    if (parser_->is_done()) {
      Dispatch();
    } else if (buffer_.size() == 0) {
      return;
    }
  }
}

bool HttpConnection::OnHead() {
  phase_ = Phase::kBody;
  read_deadline_ = Now() + environment_->options->body_timeout;
  parser_->eager(true);
  const auto& message = parser_->get();
  http_1_0_ = message.version() < 11;
  head_request_ = message.method() == http::verb::head;
  if (message.version() / 10 != 1) {
    Refuse(505, "this server speaks HTTP/1.1 and 1.0");
    return false;
  }
  if (const auto encoding = View(message[http::field::content_encoding]);
      !encoding.empty() && !absl::EqualsIgnoreCase(encoding, "identity")) {
    Refuse(415, "bodies are taken as they are, without a Content-Encoding");
    return false;
  }
  if (absl::EqualsIgnoreCase(View(message[http::field::expect]), "100-continue") && !http_1_0_ && !parser_->is_done()) {
    Write("HTTP/1.1 100 Continue\r\n\r\n");
  }
  return true;
}

bool HttpConnection::CountBody() {
  const int64_t more = static_cast<int64_t>(parser_->get().body().size()) - body_bytes_;
  if (more <= 0) return true;
  body_bytes_ += more;
  if (environment_->all_body_bytes->fetch_add(more) + more >
      static_cast<int64_t>(environment_->options->max_all_body_bytes)) {
    Refuse(503, "too many bytes of requests are held at once; send it again in a moment");
    return false;
  }
  return true;
}

void HttpConnection::ReleaseBody() {
  environment_->all_body_bytes->fetch_sub(body_bytes_);
  body_bytes_ = 0;
}

void HttpConnection::Dispatch() {
  phase_ = Phase::kAnswering;
  read_deadline_ = TimePoint::max();
  auto& message = parser_->get();
  keep_alive_ = message.keep_alive();
  HttpRequest request;
  request.method = std::string(View(message.method_string()));
  request.path = DecodePath(View(message.target()));
  request.if_none_match = std::string(View(message[http::field::if_none_match]));
  if (const auto id = View(message["X-Request-Id"]); IsRequestId(id)) request.request_id = std::string(id);
  request.authorization = std::string(View(message[http::field::authorization]));
  if (message.count(kTraceparent) == 1) request.trace = ParseTraceparent(View(message[kTraceparent]));
  request.body = std::move(message.body());
  parser_.reset();
  answer_ = Answer::kNone;
  quiet_at_ = Now() + environment_->options->quiet_interval;
  std::shared_ptr<HttpExchange> exchange = environment_->handler->Handle(std::move(request), shared_from_this());
  // What was parsed is counted until the handler has taken it in; what it keeps is in its own bounds.
  ReleaseBody();
  if (phase_ == Phase::kAnswering && answer_ != Answer::kComplete) exchange_ = std::move(exchange);
}

void HttpConnection::Refuse(int status, const std::string& why) {
  ReleaseBody();
  parser_.reset();
  phase_ = Phase::kAnswering;
  read_deadline_ = TimePoint::max();
  keep_alive_ = false;
  answer_ = Answer::kNone;
  Send(environment_->handler->Refuse(status, why));
}

std::string HttpConnection::Head(int status, absl::string_view content_type, const HttpHeaders& headers,
                                 int64_t content_length) {
  chunked_ = content_length < 0 && !http_1_0_;
  if (environment_->draining->load() || (content_length < 0 && !chunked_)) keep_alive_ = false;
  const std::string date = HttpDate();
  return RenderHead({.status = status,
                     .content_type = content_type,
                     .headers = &headers,
                     .content_length = content_length,
                     .chunked = chunked_,
                     .keep_alive = keep_alive_,
                     .http_1_0 = http_1_0_,
                     .date = date});
}

void HttpConnection::Send(HttpResponse response) {
  if (phase_ != Phase::kAnswering || answer_ != Answer::kNone) return;
  answer_ = Answer::kComplete;
  std::string data =
      Head(response.status, response.content_type, response.headers, static_cast<int64_t>(response.body.size()));
  if (!head_request_) data += response.body;
  Write(std::move(data));
}

void HttpConnection::StartStream(const std::string& content_type, const HttpHeaders& headers) {
  if (phase_ != Phase::kAnswering || answer_ != Answer::kNone) return;
  answer_ = Answer::kStreaming;
  stream_head_ = Head(200, content_type, headers, /*content_length=*/-1);
}

void HttpConnection::WriteStream(std::string data) {
  if (phase_ != Phase::kAnswering || answer_ != Answer::kStreaming || data.empty()) return;
  std::string out = std::exchange(stream_head_, {});
  out += chunked_ ? RenderChunk(data) : data;
  Write(std::move(out));
}

void HttpConnection::FinishStream() {
  if (phase_ != Phase::kAnswering || answer_ != Answer::kStreaming) return;
  answer_ = Answer::kComplete;
  exchange_.reset();  // it has said everything
  std::string out = std::exchange(stream_head_, {});
  if (chunked_) out.append(kLastChunk.data(), kLastChunk.size());
  if (out.empty()) {
    AnswerDone();
  } else {
    Write(std::move(out));
  }
}

void HttpConnection::Cut() {
  exchange_.reset();
  Close();
}

void HttpConnection::Write(std::string data) {
  if (phase_ == Phase::kClosed) return;
  if (to_write_.empty()) {
    to_write_ = std::move(data);
  } else {
    to_write_ += data;
  }
  StartWrite();
}

void HttpConnection::StartWrite() {
  if (write_open_ || to_write_.empty()) return;
  write_open_ = true;
  writing_.swap(to_write_);
  to_write_.clear();
  write_deadline_ =
      Now() + environment_->options->write_timeout + std::chrono::seconds(writing_.size() / kSlowBytesPerSecond);
  auto on_wrote = [self = shared_from_this()](const boost::system::error_code& error, size_t) { self->OnWrote(error); };
  if (tls_ != nullptr) {
    boost::asio::async_write(*tls_, boost::asio::buffer(writing_), std::move(on_wrote));
  } else {
    boost::asio::async_write(socket_, boost::asio::buffer(writing_), std::move(on_wrote));
  }
  ArmTimer();
}

void HttpConnection::OnWrote(const boost::system::error_code& error) {
  write_open_ = false;
  write_deadline_ = TimePoint::max();
  if (phase_ == Phase::kClosed) return;
  if (error) {
    Lose();
    return;
  }
  writing_.clear();
  if (writing_.capacity() > kKeptBytes) writing_.shrink_to_fit();
  if (!to_write_.empty()) {
    StartWrite();
    return;
  }
  if (phase_ != Phase::kAnswering) return;  // an interim answer
  quiet_at_ = Now() + environment_->options->quiet_interval;
  const std::shared_ptr<HttpExchange> exchange = exchange_;
  const bool complete = answer_ == Answer::kComplete;
  if (complete) exchange_.reset();
  if (exchange != nullptr && answer_ != Answer::kNone) exchange->OnWritten();
  if (complete) AnswerDone();
  ArmTimer();
}

void HttpConnection::AnswerDone() {
  if (phase_ != Phase::kAnswering) return;
  answer_ = Answer::kNone;
  quiet_at_ = TimePoint::max();
  if (!keep_alive_ || environment_->draining->load()) {
    Linger();
    return;
  }
  phase_ = Phase::kIdle;
  read_deadline_ = Now() + environment_->options->idle_timeout;
  if (buffer_.size() == 0 && buffer_.capacity() > kKeptBytes) buffer_ = {};
  Process();
  Read();
  ArmTimer();
}

void HttpConnection::Linger() {
  phase_ = Phase::kLingering;
  buffer_ = {};
  read_deadline_ = Now() + kLinger;
  ArmTimer();
  if (tls_ == nullptr) {
    EndSending();
  } else if (reading_) {
    boost::system::error_code ignored;
    socket_.cancel(ignored);  // then OnRead ends TLS
  } else {
    EndTls();
  }
}

void HttpConnection::EndTls() {
  reading_ = true;
  tls_->async_shutdown([self = shared_from_this()](const boost::system::error_code&) {
    self->reading_ = false;
    if (self->phase_ == Phase::kClosed) return;
    // The client may have sent more than was read, which is read as it is and dropped.
    self->tls_.reset();
    self->EndSending();
  });
}

void HttpConnection::EndSending() {
  boost::system::error_code error;
  socket_.shutdown(Socket::shutdown_send, error);
  if (error) {
    Close();
    return;
  }
  Read();
}

void HttpConnection::Lose() {
  const std::shared_ptr<HttpExchange> exchange = std::exchange(exchange_, nullptr);
  Close();
  if (exchange != nullptr) exchange->OnClientGone();
}

void HttpConnection::Close() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  ReleaseBody();
  boost::system::error_code ignored;
  timer_.cancel(ignored);
  socket_.close(ignored);
  environment_->on_closed(this);
}

TimePoint HttpConnection::NextDeadline() const {
  const TimePoint quiet_at = exchange_ != nullptr && !write_open_ ? quiet_at_ : TimePoint::max();
  return std::min({read_deadline_, write_deadline_, quiet_at});
}

void HttpConnection::ArmTimer() {
  if (phase_ == Phase::kClosed) return;
  const TimePoint next = NextDeadline();
  // A timer that runs ends early rather than being set anew with each message.
  if (next == TimePoint::max() || timer_at_ <= next) return;
  timer_at_ = next;
  timer_.expires_at(next);
  timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    if (error) return;
    self->timer_at_ = TimePoint::max();
    self->OnTimer();
  });
}

void HttpConnection::OnTimer() {
  if (phase_ == Phase::kClosed) return;
  const TimePoint now = Now();
  if (now >= write_deadline_) {
    Lose();
    return;
  }
  if (now >= read_deadline_) {
    if (phase_ == Phase::kHead || phase_ == Phase::kBody) {
      Refuse(408, phase_ == Phase::kHead ? "the head of the request did not come in time"
                                         : "the body of the request did not come in time");
    } else {
      Close();
      return;
    }
  }
  if (exchange_ != nullptr && !write_open_ && now >= quiet_at_) {
    quiet_at_ = now + environment_->options->quiet_interval;
    const std::shared_ptr<HttpExchange> exchange = exchange_;
    exchange->OnQuiet();
  }
  ArmTimer();
}

}  // namespace outrider::router
