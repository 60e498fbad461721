#include "router/request_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace outrider::router {
namespace {

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string TraceField(const std::string& trace_id) {
  return trace_id.empty() ? "" : absl::StrCat(",\"trace_id\":\"", trace_id, "\"");
}

}  // namespace

absl::string_view OutcomeOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return "complete";
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      return "retriable";
    case absl::StatusCode::kCancelled:
      return "cancelled";
    case absl::StatusCode::kDeadlineExceeded:
      return "deadline";
    default:
      return "permanent";
  }
}

absl::StatusOr<std::unique_ptr<RequestLog>> RequestLog::Open(const std::string& path, RouterMetrics* metrics) {
  int fd = -1;
  if (!path.empty()) {
    fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) {
      return absl::UnavailableError(absl::StrCat("request_log ", path, " can not be opened: ", std::strerror(errno),
                                                 "; give a path that can be written, or none"));
    }
  }
  return std::unique_ptr<RequestLog>(new RequestLog(fd, metrics));
}

RequestLog::~RequestLog() {
  if (fd_ >= 0) ::close(fd_);
}

void RequestLog::Accepted(const std::string& request_id, const std::string& trace_id) {
  if (fd_ < 0) return;
  Write(absl::StrCat("{\"event\":\"accepted\",\"request_id\":\"", request_id, "\"", TraceField(trace_id),
                     ",\"at_ms\":", UnixMs(), "}\n"));
}

void RequestLog::Ended(const std::string& request_id, const End& end) {
  if (fd_ < 0) return;
  Write(absl::StrCat(
      "{\"event\":\"ended\",\"request_id\":\"", request_id, "\"", TraceField(end.trace_id), ",\"at_ms\":", UnixMs(),
      ",\"outcome\":\"", OutcomeOf(end.status.code()), "\",\"code\":", static_cast<int>(end.status.code()),
      ",\"attempts\":", end.num_attempts, ",\"output_tokens\":", end.num_output_tokens,
      ",\"total_ms\":", std::chrono::duration_cast<std::chrono::milliseconds>(end.total).count(), "}\n"));
}

void RequestLog::Write(const std::string& line) {
  MutexLock lock(mu_);
  // After a line that was cut by a full disk, the next begins on its own.
  const std::string whole = torn_ ? absl::StrCat("\n", line) : line;
  const ssize_t written = ::write(fd_, whole.data(), whole.size());
  const int error = written < 0 ? errno : ENOSPC;
  if (written == static_cast<ssize_t>(whole.size())) {
    torn_ = false;
    if (num_dropped_ > 0) LogWarning("request_log can be written again; ", num_dropped_, " lines are not in it");
    num_dropped_ = 0;
    return;
  }
  torn_ |= written > 0;
  metrics_->RequestLogLineDropped();
  // Once until it works again: a full disk is no reason to fill another.
  if (num_dropped_++ == 0) {
    LogError("request_log can not be written: ", std::strerror(error),
             "; requests are served on, and lines that are lost are counted (request_log_lines_dropped_total)");
  }
}

}  // namespace outrider::router
