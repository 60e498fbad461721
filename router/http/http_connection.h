// HttpConnection is one client's connection: reads requests one after the other, has each answered, writes the answers.
//
//   (handshake ->) idle -> head -> body -> answering -> idle ...
//                             `-------`--------`------> lingering -> closed
//
// A connection that ends with an answer shuts down its sending side and reads on for a moment (lingering): closing with
// unread bytes would destroy the answer on its way.
//
// Thread safety: everything happens on the socket's strand, but for Start, Drain, Shutdown and Post, which get there.
#pragma once

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "router/http/http_message.h"
#include "router/http/http_server.h"

namespace outrider::router {

// What the connections of a server share; outlives them.
struct HttpConnectionEnvironment {
  const HttpServer::Options* options;
  HttpHandler* handler;
  std::atomic<bool>* draining;
  std::atomic<int64_t>* all_body_bytes;
  // Called once a connection is over.
  std::function<void(const void* connection)> on_closed;
};

class HttpConnection final : public HttpStream, public std::enable_shared_from_this<HttpConnection> {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  // With `tls` the client is spoken to over it. REQUIRES: the socket's executor is a strand.
  HttpConnection(Socket socket, std::shared_ptr<boost::asio::ssl::context> tls,
                 const HttpConnectionEnvironment* environment);
  ~HttpConnection() override;

  void Start();
  void Drain();
  void Shutdown();

  // HttpStream.
  void Post(std::function<void()> work) override;
  void Send(HttpResponse response) override;
  void StartStream(const std::string& content_type, const HttpHeaders& headers) override;
  void WriteStream(std::string data) override;
  void FinishStream() override;
  void Cut() override;

 private:
  enum class Phase : uint8_t { kIdle, kHead, kBody, kAnswering, kLingering, kClosed };
  enum class Answer : uint8_t { kNone, kStreaming, kComplete };
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  void Begin();
  void Read();
  void OnRead(const boost::system::error_code& error, size_t num_bytes);
  // Takes what is in the buffer as far as it goes.
  void Process();
  // False if the request was refused.
  bool OnHead();
  bool CountBody();
  void Dispatch();
  // Answers what is no request, and ends.
  void Refuse(int status, const std::string& why);
  std::string Head(int status, absl::string_view content_type, const HttpHeaders& headers, int64_t content_length);
  void Write(std::string data);
  void StartWrite();
  void OnWrote(const boost::system::error_code& error);
  void AnswerDone();
  void Linger();
  // Says over TLS that nothing more comes. REQUIRES: no read is open.
  void EndTls();
  void EndSending();
  // The client left: the exchange is told.
  void Lose();
  void Close();
  void ReleaseBody();
  void ArmTimer();
  void OnTimer();
  TimePoint NextDeadline() const;

  const HttpConnectionEnvironment* const environment_;
  Socket socket_;
  const std::shared_ptr<boost::asio::ssl::context> tls_context_;  // null: no TLS
  std::unique_ptr<boost::asio::ssl::stream<Socket&>> tls_;        // until TLS has ended
  boost::asio::steady_timer timer_;
  TimePoint timer_at_ = TimePoint::max();  // when the timer that runs ends; max: none runs
  std::vector<char> read_bytes_;           // the open read's
  boost::beast::flat_buffer buffer_;       // came and not taken
  Phase phase_ = Phase::kIdle;
  bool reading_ = false;
  TimePoint read_deadline_ = TimePoint::max();

  std::optional<Parser> parser_;
  int64_t body_bytes_ = 0;  // counted in all_body_bytes
  bool keep_alive_ = true;
  bool head_request_ = false;
  bool http_1_0_ = false;

  std::shared_ptr<HttpExchange> exchange_;
  Answer answer_ = Answer::kNone;
  bool chunked_ = false;
  std::string stream_head_;  // to go with the first write
  std::string writing_;      // with the system
  std::string to_write_;
  bool write_open_ = false;
  TimePoint write_deadline_ = TimePoint::max();
  TimePoint quiet_at_ = TimePoint::max();
};

}  // namespace outrider::router
