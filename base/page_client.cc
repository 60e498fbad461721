#include "base/page_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace outrider {
namespace {

constexpr absl::string_view kUnixPrefix = "unix:";

struct Fetch {
  int fd = -1;
  bool connecting = false;
  std::string request;
  size_t num_sent = 0;
  std::string answer;
  absl::StatusOr<Page> result = absl::DeadlineExceededError("no answer in time");
};

absl::Status Failed(const std::string& address, absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(address, ": ", what));
}

absl::Status Begin(const PageRequest& request, Fetch& fetch) {
  sockaddr_storage address{};
  socklen_t size = 0;
  absl::string_view where = request.address;
  if (where.substr(0, kUnixPrefix.size()) == kUnixPrefix) {
    where.remove_prefix(kUnixPrefix.size());
    auto* const path = reinterpret_cast<sockaddr_un*>(&address);
    if (where.size() >= sizeof(path->sun_path)) return Failed(request.address, "the path is too long");
    path->sun_family = AF_UNIX;
    std::memcpy(path->sun_path, where.data(), where.size());
    size = sizeof(sockaddr_un);
  } else {
    const size_t colon = where.rfind(':');
    auto* const ip = reinterpret_cast<sockaddr_in*>(&address);
    uint32_t port = 0;
    if (colon == absl::string_view::npos || !absl::SimpleAtoi(where.substr(colon + 1), &port) || port > 65535 ||
        ::inet_pton(AF_INET, std::string(where.substr(0, colon)).c_str(), &ip->sin_addr) != 1) {
      return Failed(request.address, "is neither unix:PATH nor ADDRESS:PORT");
    }
    ip->sin_family = AF_INET;
    ip->sin_port = htons(static_cast<uint16_t>(port));
    size = sizeof(sockaddr_in);
  }
  fetch.fd = ::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fetch.fd < 0) return Failed(request.address, std::strerror(errno));
  fetch.connecting = ::connect(fetch.fd, reinterpret_cast<sockaddr*>(&address), size) != 0;
  // EAGAIN: a unix socket whose queue is full, so its server stands still.
  if (fetch.connecting && errno != EINPROGRESS) return Failed(request.address, std::strerror(errno));
  fetch.request = absl::StrCat("GET ", request.path, " HTTP/1.0\r\n\r\n");
  return absl::OkStatus();
}

absl::StatusOr<Page> Parse(const std::string& address, const std::string& answer) {
  const size_t head_end = answer.find("\r\n\r\n");
  int status = 0;
  if (head_end == std::string::npos || answer.size() < 12 || answer.compare(0, 5, "HTTP/") != 0 ||
      !absl::SimpleAtoi(answer.substr(9, 3), &status)) {
    return Failed(address, "the answer is no page");
  }
  return Page{.status = status, .body = answer.substr(head_end + 4)};
}

// True once the result is there.
bool Advance(const PageRequest& request, Fetch& fetch) {
  if (fetch.connecting) {
    int error = 0;
    socklen_t size = sizeof(error);
    ::getsockopt(fetch.fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
      fetch.result = Failed(request.address, std::strerror(error));
      return true;
    }
    fetch.connecting = false;
  }
  if (fetch.num_sent < fetch.request.size()) {
    const ssize_t sent =
        ::send(fetch.fd, fetch.request.data() + fetch.num_sent, fetch.request.size() - fetch.num_sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
      fetch.result = Failed(request.address, std::strerror(errno));
      return true;
    }
    fetch.num_sent += static_cast<size_t>(std::max<ssize_t>(0, sent));
    return false;
  }
  char buffer[16384];
  const ssize_t size = ::recv(fetch.fd, buffer, sizeof(buffer), 0);
  if (size > 0) {
    fetch.answer.append(buffer, static_cast<size_t>(size));
    if (fetch.answer.size() <= kMaxPageBytes) return false;
    fetch.result = absl::ResourceExhaustedError(
        absl::StrCat(request.address, ": the page has more than ", kMaxPageBytes, " bytes"));
    return true;
  }
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  fetch.result = size == 0 ? Parse(request.address, fetch.answer) : Failed(request.address, std::strerror(errno));
  return true;
}

}  // namespace

std::vector<absl::StatusOr<Page>> FetchPages(const std::vector<PageRequest>& requests, Duration bound) {
  const TimePoint deadline = std::chrono::steady_clock::now() + bound;
  std::vector<Fetch> fetches(requests.size());
  const auto finish = [](Fetch& fetch) {
    if (fetch.fd >= 0) ::close(fetch.fd);
    fetch.fd = -1;
  };
  for (size_t i = 0; i < requests.size(); ++i) {
    if (absl::Status status = Begin(requests[i], fetches[i]); !status.ok()) {
      fetches[i].result = std::move(status);
      finish(fetches[i]);
    }
  }
  std::vector<pollfd> polled(fetches.size());
  while (std::any_of(fetches.begin(), fetches.end(), [](const Fetch& fetch) { return fetch.fd >= 0; })) {
    const double left_ms = ToMillis(deadline - std::chrono::steady_clock::now());
    if (left_ms <= 0) break;
    for (size_t i = 0; i < fetches.size(); ++i) {
      const bool writes = fetches[i].connecting || fetches[i].num_sent < fetches[i].request.size();
      polled[i] = {fetches[i].fd, static_cast<short>(writes ? POLLOUT : POLLIN), 0};
    }
    ::poll(polled.data(), polled.size(), static_cast<int>(left_ms) + 1);
    for (size_t i = 0; i < fetches.size(); ++i) {
      if (fetches[i].fd >= 0 && polled[i].revents != 0 && Advance(requests[i], fetches[i])) finish(fetches[i]);
    }
  }
  std::vector<absl::StatusOr<Page>> pages;
  for (Fetch& fetch : fetches) {
    finish(fetch);
    pages.push_back(std::move(fetch.result));
  }
  return pages;
}

}  // namespace outrider
