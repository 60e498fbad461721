#include "base/log.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>

namespace outrider {
namespace {

// A pipe whose reader is behind may catch up for so long before the line is given up.
constexpr int kPatienceMs = 5;

std::string& ProcessName() {
  static std::string name = "outrider";
  return name;
}

LogFormat& Format() {
  static LogFormat format = LogFormat::kText;
  return format;
}

std::atomic<int64_t>& NumLost() {
  static std::atomic<int64_t> count{0};
  return count;
}

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

std::string Timestamp(int64_t unix_ms) {
  const time_t seconds = static_cast<time_t>(unix_ms / 1000);
  tm utc;
  gmtime_r(&seconds, &utc);
  char stamp[48];
  const size_t size = std::strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(stamp + size, sizeof(stamp) - size, ".%03dZ", static_cast<int>(unix_ms % 1000));
  return stamp;
}

// Bytes of the UTF-8 character at `text`'s begin; 0 if it is none.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  size_t size = 1;
  if (byte(0) >= 0xf8 || (byte(0) & 0xc0) == 0x80) return 0;
  if (byte(0) >= 0xf0) {
    size = 4;
  } else if (byte(0) >= 0xe0) {
    size = 3;
  } else if (byte(0) >= 0x80) {
    size = 2;
  }
  if (size > text.size()) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return size;
}

// Between quotes, for both formats: a JSON string.
void AppendQuoted(absl::string_view text, std::string* line) {
  *line += '"';
  while (!text.empty()) {
    const unsigned char c = static_cast<unsigned char>(text[0]);
    const size_t size = CharacterBytes(text);
    if (c == '"' || c == '\\') {
      *line += '\\';
      *line += static_cast<char>(c);
    } else if (c < 0x20 || c == 0x7f || size == 0) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", size == 0 ? 0xfffd : c);
      *line += escaped;
    } else {
      line->append(text.data(), size);
    }
    text.remove_prefix(size == 0 ? 1 : size);
  }
  *line += '"';
}

bool IsBare(absl::string_view text) {
  if (text.empty()) return false;
  for (const char c : text) {
    if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c >= 0x7f) return false;
  }
  return true;
}

void AppendField(LogFormat format, absl::string_view name, absl::string_view value, bool is_number, std::string* line) {
  if (format == LogFormat::kJson) {
    absl::StrAppend(line, line->empty() ? "{" : ",", "\"", name, "\":");
    if (is_number) {
      absl::StrAppend(line, value);
    } else {
      AppendQuoted(value, line);
    }
    return;
  }
  absl::StrAppend(line, line->empty() ? "" : " ", name, "=");
  if (IsBare(value)) {
    absl::StrAppend(line, value);
  } else {
    AppendQuoted(value, line);
  }
}

}  // namespace

void SetLogProcess(const std::string& name) {
  ProcessName() = name;
  ::signal(SIGPIPE, SIG_IGN);
}

absl::Status SetLogFormat(const std::string& format) {
  if (format != "text" && format != "json") {
    return absl::InvalidArgumentError(absl::StrCat("log_format '", format, "' is none of text, json"));
  }
  Format() = format == "json" ? LogFormat::kJson : LogFormat::kText;
  return absl::OkStatus();
}

int64_t NumLogLinesLost() { return NumLost().load(std::memory_order_relaxed); }

std::string FormatLogLine(LogFormat format, int64_t unix_ms, LogLevel level, absl::string_view process,
                          absl::string_view message, std::initializer_list<LogField> fields) {
  const auto with = [&](absl::string_view told) {
    std::string line;
    AppendField(format, "time", Timestamp(unix_ms), false, &line);
    AppendField(format, "level", LevelName(level), false, &line);
    AppendField(format, "process", process, false, &line);
    AppendField(format, "message", told, false, &line);
    for (const LogField& field : fields) {
      if (!field.value.empty()) AppendField(format, field.name, field.value, field.is_number, &line);
    }
    absl::StrAppend(&line, format == LogFormat::kJson ? "}\n" : "\n");
    return line;
  };
  std::string line = with(message);
  if (line.size() <= kMaxLogLineBytes) return line;
  // The message gives way until the line fits (a character takes 6 bytes at most); long fields go with it.
  const size_t rest = line.size() - std::min(line.size(), message.size());
  const size_t room = rest < kMaxLogLineBytes ? (kMaxLogLineBytes - rest) / 6 : 0;
  line = with(message.substr(0, room));
  if (line.size() <= kMaxLogLineBytes) return line;
  return FormatLogLine(format, unix_ms, level, process.substr(0, 256), message.substr(0, 256), {});
}

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  const std::string line = FormatLogLine(Format(), int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000, level,
                                         ProcessName(), message, fields);
  // A pipe that is ready takes a whole line without blocking. One write, so that lines of processes do not mix.
  pollfd ready{STDERR_FILENO, POLLOUT, 0};
  const bool may_write = ::poll(&ready, 1, kPatienceMs) > 0 && (ready.revents & POLLOUT) != 0;
  if (may_write && ::write(STDERR_FILENO, line.data(), line.size()) == static_cast<ssize_t>(line.size())) return;
  NumLost().fetch_add(1, std::memory_order_relaxed);
}

}  // namespace outrider
