#include "benchmarks/edge/http_streams.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"

namespace outrider::edge {
namespace {

TimePoint Now() { return std::chrono::steady_clock::now(); }

int OpenSocket(const std::string& address, int receive_buffer) {
  const size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1)));
  CHECK(colon != std::string::npos && ::inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr) == 1);
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (receive_buffer > 0) ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  CHECK(::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0);
  return fd;
}

void SendAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;  // the answer's absence tells
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

// The letters of "text":"..." in an event; the fake engine writes nothing that JSON escapes.
size_t NumLetters(absl::string_view event) {
  constexpr absl::string_view kText = "\"text\":\"";
  const size_t begin = event.find(kText);
  if (begin == absl::string_view::npos) return 0;
  const size_t end = event.find('"', begin + kText.size());
  return end == absl::string_view::npos ? 0 : end - begin - kText.size();
}

}  // namespace

class HttpClients::Connection {
 public:
  Connection(int fd, const std::string& address) : fd_(fd), address_(address) {}
  ~Connection() { ::close(fd_); }

  int fd() const { return fd_; }

  void Begin(const StreamLoad& load, double late_ms) {
    received_.clear();
    events_.clear();
    state_ = State::kHead;
    error_.clear();
    gap_ms_.clear();
    first_ms_ = -1;
    num_tokens_ = 0;
    done_seen_ = false;
    late_ms_ = late_ms;
    const std::string body = absl::StrCat(
        "{\"model\":\"edge-bench\",\"prompt\":[", absl::StrJoin(PromptOf(load.pace, load.num_prompt_tokens), ","),
        "],\"max_tokens\":", load.max_tokens, ",\"temperature\":0,\"ignore_eos\":true,\"stream\":true}");
    started_ = last_ = Now();
    SendAll(fd_, absl::StrCat("POST /v1/completions HTTP/1.1\r\nHost: ", address_,
                              "\r\nContent-Type: application/json\r\nContent-Length: ", body.size(), "\r\n\r\n", body));
  }

  // Reads what there is; true once the stream has ended.
  bool Read() {
    char bytes[65536];
    const ssize_t count = ::recv(fd_, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (count <= 0) {
      error_ = "the connection ended";
      return true;
    }
    received_.append(bytes, static_cast<size_t>(count));
    return Take();
  }
  bool has_first() const { return first_ms_ >= 0; }

  // Whether the connection can be used again.
  bool Report(const StreamLoad& load, StreamFigures& figures) const {
    if (first_ms_ >= 0) figures.first_ms.push_back(first_ms_);
    figures.gap_ms.insert(figures.gap_ms.end(), gap_ms_.begin(), gap_ms_.end());
    figures.late_ms.push_back(late_ms_);
    if (state_ == State::kEnded && done_seen_ && num_tokens_ == load.max_tokens) {
      ++figures.num_complete;
      return true;
    }
    ++figures.failures[error_.empty() ? absl::StrCat("ended after ", num_tokens_, " tokens") : error_];
    return false;
  }

 private:
  enum class State { kHead, kChunkSize, kChunk, kEnded };

  bool Take() {
    size_t taken = 0;
    const auto line_end = [&](absl::string_view mark) { return received_.find(mark.data(), taken); };
    while (state_ != State::kEnded) {
      if (state_ == State::kHead) {
        const size_t end = line_end("\r\n\r\n");
        if (end == std::string::npos) break;
        const absl::string_view head(received_.data(), end);
        if (!absl::StartsWith(head, "HTTP/1.1 200") || !absl::StrContains(head, "chunked")) {
          error_ = std::string(head.substr(0, head.find('\r')));
          return true;
        }
        taken = end + 4;
        state_ = State::kChunkSize;
      } else if (state_ == State::kChunkSize) {
        const size_t end = line_end("\r\n");
        if (end == std::string::npos) break;
        chunk_bytes_ = std::strtoul(received_.c_str() + taken, nullptr, 16);
        taken = end + 2;
        state_ = State::kChunk;
      } else {
        if (received_.size() < taken + chunk_bytes_ + 2) break;
        events_.append(received_, taken, chunk_bytes_);
        taken += chunk_bytes_ + 2;
        state_ = chunk_bytes_ == 0 ? State::kEnded : State::kChunkSize;
        TakeEvents();
      }
    }
    received_.erase(0, taken);
    return state_ == State::kEnded;
  }

  void TakeEvents() {
    size_t begin = 0;
    for (size_t end; (end = events_.find("\n\n", begin)) != std::string::npos; begin = end + 2) {
      const absl::string_view event = absl::string_view(events_).substr(begin, end - begin);
      if (!absl::StartsWith(event, "data: ")) continue;
      const TimePoint now = Now();
      if (first_ms_ < 0) first_ms_ = Milliseconds(now - started_);
      if (absl::StartsWith(event, "data: [DONE]")) {
        done_seen_ = true;
      } else if (const size_t num_letters = NumLetters(event); num_letters > 0) {
        if (num_tokens_ > 0) gap_ms_.push_back(Milliseconds(now - last_));
        last_ = now;
        num_tokens_ += num_letters;
      }
    }
    events_.erase(0, begin);
  }

  const int fd_;
  const std::string address_;
  State state_ = State::kHead;
  size_t chunk_bytes_ = 0;
  std::string received_;  // not taken
  std::string events_;    // decoded and not taken
  std::string error_;
  TimePoint started_, last_;
  double late_ms_ = 0;
  double first_ms_ = -1;
  size_t num_tokens_ = 0;
  bool done_seen_ = false;
  std::vector<double> gap_ms_;
};

HttpClients::HttpClients(std::string address) : address_(std::move(address)) {}
HttpClients::~HttpClients() = default;

std::unique_ptr<HttpClients::Connection> HttpClients::Connect(int receive_buffer) const {
  return std::make_unique<Connection>(OpenSocket(address_, receive_buffer), address_);
}

StreamFigures HttpClients::Run(const StreamLoad& load) {
  StreamFigures figures;
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  CHECK(epoll >= 0);
  std::unordered_map<int, std::unique_ptr<Connection>> open;  // by file descriptor
  const TimePoint begin = Now();
  const TimePoint cancel_at = load.cancel_after > Duration::zero() ? begin + load.cancel_after : TimePoint::max();
  size_t next = 0;
  while (next < load.starts.size() || !open.empty()) {
    const TimePoint now = Now();
    if (now >= cancel_at) {
      figures.num_cancelled += static_cast<int>(open.size());
      break;
    }
    if (next < load.starts.size() && begin + load.starts[next] <= now) {
      std::unique_ptr<Connection> connection;
      if (!load.stop_reading && !idle_.empty()) {
        connection = std::move(idle_.back());
        idle_.pop_back();
      } else {
        connection = Connect(load.stop_reading ? 4096 : 0);
      }
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.fd = connection->fd();
      CHECK(::epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd(), &event) == 0);
      connection->Begin(load, Milliseconds(now - begin - load.starts[next]));
      ++next;
      open.emplace(connection->fd(), std::move(connection));
      continue;
    }
    const TimePoint until =
        std::min(next < load.starts.size() ? begin + load.starts[next] : TimePoint::max(), cancel_at);
    const auto wait =
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::min<Duration>(until - now, std::chrono::seconds(1)));
    const timespec timeout{.tv_sec = wait.count() / 1'000'000'000, .tv_nsec = wait.count() % 1'000'000'000};
    epoll_event events[64];
    const int count = ::epoll_pwait2(epoll, events, 64, &timeout, nullptr);
    for (int i = 0; i < count; ++i) {
      const auto found = open.find(events[i].data.fd);
      if (found == open.end()) continue;
      Connection& connection = *found->second;
      const bool ended = connection.Read();
      if (!ended && !(load.stop_reading && connection.has_first())) continue;
      ::epoll_ctl(epoll, EPOLL_CTL_DEL, connection.fd(), nullptr);
      if (!ended) continue;  // stays open, unread
      if (connection.Report(load, figures)) idle_.push_back(std::move(found->second));
      open.erase(found);
    }
  }
  ::close(epoll);
  return figures;
}

std::vector<double> TimeGets(const std::string& address, const std::string& path, int count, std::string* body) {
  const int fd = OpenSocket(address, 0);
  std::vector<double> times_ms;
  for (int i = 0; i < count; ++i) {
    const TimePoint started = Now();
    SendAll(fd, absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: ", address, "\r\n\r\n"));
    std::string received;
    size_t needed = std::string::npos;
    size_t head_bytes = 0;
    while (received.size() < needed) {
      char bytes[65536];
      const ssize_t size = ::recv(fd, bytes, sizeof(bytes), 0);
      CHECK(size > 0);
      received.append(bytes, static_cast<size_t>(size));
      if (needed != std::string::npos) continue;
      head_bytes = received.find("\r\n\r\n");
      if (head_bytes == std::string::npos) continue;
      head_bytes += 4;
      const size_t length = received.find("Content-Length: ");
      CHECK(absl::StartsWith(received, "HTTP/1.1 200") && length < head_bytes);
      needed = head_bytes + std::strtoul(received.c_str() + length + 16, nullptr, 10);
    }
    times_ms.push_back(Milliseconds(Now() - started));
    *body = received.substr(head_bytes);
  }
  ::close(fd);
  return times_ms;
}

}  // namespace outrider::edge
