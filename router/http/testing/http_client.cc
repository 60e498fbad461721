#include "router/http/testing/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace outrider::router {

HttpClient::HttpClient(const std::string& address, int receive_buffer) {
  const size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1)));
  ::inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_buffer > 0) ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  const timeval bound{.tv_sec = 20, .tv_usec = 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
  ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound));
  if (::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) Close();
}

HttpClient::~HttpClient() { Close(); }

void HttpClient::Close(bool reset) {
  if (fd_ < 0) return;
  if (reset) {
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  }
  ::close(fd_);
  fd_ = -1;
}

bool HttpClient::Send(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t count = ::send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) return false;
    sent += static_cast<size_t>(count);
  }
  return true;
}

bool HttpClient::Fill() {
  char bytes[16384];
  const ssize_t count = fd_ < 0 ? -1 : ::recv(fd_, bytes, sizeof(bytes), 0);
  if (count <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(count));
  return true;
}

std::optional<std::string> HttpClient::ReadLine() {
  size_t end;
  while ((end = buffer_.find("\r\n")) == std::string::npos) {
    if (!Fill()) return std::nullopt;
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return line;
}

bool HttpClient::ReadExactly(size_t count, std::string* out) {
  while (buffer_.size() < count) {
    if (!Fill()) return false;
  }
  out->append(buffer_, 0, count);
  buffer_.erase(0, count);
  return true;
}

bool HttpClient::ReadChunk(std::string* out) {
  const std::optional<std::string> line = ReadLine();
  if (!line.has_value() || line->empty()) return false;
  char* end = nullptr;
  const size_t size = std::strtoull(line->c_str(), &end, 16);
  if (*end != '\0') return false;
  std::string data;
  if (!ReadExactly(size + 2, &data) || data.substr(size) != "\r\n") return false;
  if (size == 0) {
    stream_complete = true;
    return false;
  }
  out->append(data, 0, size);
  return true;
}

HttpReply HttpClient::ReadHead() {
  HttpReply reply;
  stream_complete = false;
  do {
    const std::optional<std::string> line = ReadLine();
    if (!line.has_value() || line->rfind("HTTP/1.1 ", 0) != 0) return {};
    reply.status = std::atoi(line->c_str() + 9);
    reply.headers.clear();
    while (true) {
      const std::optional<std::string> field = ReadLine();
      if (!field.has_value()) return {};
      if (field->empty()) break;
      const size_t colon = field->find(": ");
      if (colon == std::string::npos) return {};
      reply.headers[absl::AsciiStrToLower(field->substr(0, colon))] = field->substr(colon + 2);
    }
  } while (reply.status == 100);
  return reply;
}

HttpReply HttpClient::ReadReply(bool head_only) {
  HttpReply reply = ReadHead();
  if (reply.status == 0) return reply;
  if (head_only) {
    reply.complete = true;
  } else if (const auto length = reply.headers.find("content-length"); length != reply.headers.end()) {
    reply.complete = ReadExactly(std::strtoull(length->second.c_str(), nullptr, 10), &reply.body);
  } else if (reply.headers.count("transfer-encoding") > 0) {
    while (ReadChunk(&reply.body)) {
    }
    reply.complete = stream_complete;
  } else {
    while (Fill()) {
    }
    reply.body.swap(buffer_);
    reply.complete = true;
  }
  return reply;
}

std::optional<std::string> HttpClient::ReadPiece() {
  size_t end;
  while ((end = events_.find("\n\n")) == std::string::npos) {
    if (stream_complete || !ReadChunk(&events_)) return std::nullopt;
  }
  std::string piece = events_.substr(0, end);
  events_.erase(0, end + 2);
  return piece;
}

std::optional<std::string> HttpClient::ReadEvent() {
  while (true) {
    const std::optional<std::string> piece = ReadPiece();
    if (!piece.has_value()) return std::nullopt;
    if (piece->rfind("data: ", 0) == 0) return piece->substr(6);
    if (piece->rfind(':', 0) != 0) return "neither data nor a comment: " + *piece;
  }
}

bool HttpClient::ReadComment() {
  const std::optional<std::string> piece = ReadPiece();
  return piece.has_value() && piece->rfind(':', 0) == 0;
}

std::vector<std::string> HttpClient::ReadEvents() {
  std::vector<std::string> events;
  while (std::optional<std::string> event = ReadEvent()) events.push_back(*std::move(event));
  return events;
}

bool HttpClient::AtEnd() { return buffer_.empty() && !Fill(); }

std::string PostText(const std::string& path, const std::string& body, const std::string& headers) {
  return absl::StrCat("POST ", path,
                      " HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: ", body.size(),
                      "\r\n", headers, "\r\n", body);
}

HttpReply Get(const std::string& address, const std::string& path) {
  HttpClient client(address);
  client.Send(absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: test\r\n\r\n"));
  return client.ReadReply();
}

HttpReply Post(const std::string& address, const std::string& path, const std::string& body,
               const std::string& headers) {
  HttpClient client(address);
  client.Send(PostText(path, body, headers));
  return client.ReadReply();
}

}  // namespace outrider::router
