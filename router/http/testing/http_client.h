// A blocking HTTP client for tests: what it sends is exactly what it is given, what it reads is taken apart strictly.
// Nothing waits longer than 20 s.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace outrider::router {

struct HttpReply {
  int status = 0;                              // 0: the connection ended before an answer
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  bool complete = false;  // as the head said it would be
};

class HttpClient {
 public:
  // `address`: HOST:PORT. `receive_buffer` > 0: what the system keeps unread, in bytes.
  explicit HttpClient(const std::string& address, int receive_buffer = 0);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return fd_ >= 0; }
  // False once the server has ended the connection.
  bool Send(const std::string& bytes);
  // Ends the connection; `reset`: at once, as a killed client's does.
  void Close(bool reset = false);

  // The next answer, all of it. `head_only`: of a HEAD request.
  HttpReply ReadReply(bool head_only = false);
  // The head of the next answer alone; then ReadEvent.
  HttpReply ReadHead();
  // The data of the next server-sent event of a chunked answer; comments are passed over. Nothing at the
  // end.
  std::optional<std::string> ReadEvent();
  // True if a comment comes next.
  bool ReadComment();
  // All that are left.
  std::vector<std::string> ReadEvents();
  // The server has ended the connection, and nothing is left to read.
  bool AtEnd();

  // The answer's end was seen, as the chunked coding has it.
  bool stream_complete = false;

 private:
  // False at the end.
  bool Fill();
  std::optional<std::string> ReadLine();
  bool ReadExactly(size_t count, std::string* out);
  bool ReadChunk(std::string* out);
  std::optional<std::string> ReadPiece();

  int fd_ = -1;
  std::string buffer_;
  std::string events_;  // decoded and not taken
};

// One request on a connection of its own.
HttpReply Get(const std::string& address, const std::string& path);
HttpReply Post(const std::string& address, const std::string& path, const std::string& body,
               const std::string& headers = "");
std::string PostText(const std::string& path, const std::string& body, const std::string& headers = "");

}  // namespace outrider::router
