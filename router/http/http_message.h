// HTTP as the edge's own parts see it: a request, an answer, and the two sides of an exchange. Nothing here knows of
// sockets; http_connection.h does.
//
// Thread safety: everything about one connection happens on its strand, one at a time; HttpStream::Post is how other
// threads get there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/trace_context.h"

namespace outrider::router {

struct HttpRequest {
  std::string method;
  std::string path;  // percent-decoded; the query is not part of it
  std::string body;
  std::string authorization;          // as the header has it
  std::string if_none_match;          // the header, as it came
  std::string request_id;             // X-Request-Id as the client gave it; empty if it did not, or not a sensible one
  std::optional<TraceContext> trace;  // of Traceparent
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  HttpHeaders headers;  // besides those of every answer
  std::string body;
};

// What answers one request. Made by an HttpHandler and kept by the connection until the answer is complete or the
// client gone.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  // What WriteStream was given last is with the system.
  virtual void OnWritten() = 0;
  // The connection broke: nothing more can be sent.
  virtual void OnClientGone() = 0;
  // Nothing was sent for the keep-alive interval.
  virtual void OnQuiet() = 0;
};

// Where the answer goes: Send once, or StartStream, any WriteStream, FinishStream or Cut. On the strand only, but for
// Post; calls after the answer's end or the client's are ignored.
class HttpStream {
 public:
  virtual ~HttpStream() = default;
  // Runs `work` on the strand, never inside this call. From any thread.
  virtual void Post(std::function<void()> work) = 0;
  // The whole answer. Calls OnWritten when it is with the system.
  virtual void Send(HttpResponse response) = 0;
  // Begins a 200 whose length is not known; the head goes out with the first write.
  virtual void StartStream(const std::string& content_type, const HttpHeaders& headers) = 0;
  // REQUIRES: the write before is done (OnWritten), `data` is not empty.
  virtual void WriteStream(std::string data) = 0;
  // The answer is complete. REQUIRES: the write before is done.
  virtual void FinishStream() = 0;
  // Ends the connection at once: the client sees that the answer is not complete.
  virtual void Cut() = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Answers `request` on `stream`, now or later. Returns what is to be told of the connection; null if Send was called.
  // Called on the strand.
  virtual std::shared_ptr<HttpExchange> Handle(HttpRequest request, std::shared_ptr<HttpStream> stream) = 0;
  // An answer to what never became a request: too large, too slow, not HTTP.
  virtual HttpResponse Refuse(int status, const std::string& why) const = 0;
};

// The answer's first line.
absl::string_view ReasonPhrase(int status);

// The head of an answer, up to the empty line. `content_length` < 0: chunked, or, where `chunked` is false, until the
// connection ends. `date`: as HTTP has it.
struct ResponseHead {
  int status = 200;
  absl::string_view content_type;
  const HttpHeaders* headers = nullptr;
  int64_t content_length = -1;
  bool chunked = false;
  bool keep_alive = true;
  bool http_1_0 = false;  // the client's version: then keeping the connection must be said
  absl::string_view date;
};
std::string RenderHead(const ResponseHead& head);

// `data` as a chunk of the chunked coding; and what ends the last.
std::string RenderChunk(absl::string_view data);
inline constexpr absl::string_view kLastChunk = "0\r\n\r\n";

// The path of a request's target, percent-decoded; empty if it is not one.
std::string DecodePath(absl::string_view target);

// Letters, digits and -_.:/+=, at most 128: what is safe to show in headers and logs.
bool IsRequestId(absl::string_view id);

}  // namespace outrider::router
