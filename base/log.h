// One line a record on standard error: time, level, process, message, and fields such as a request's id. As key=value
// (logfmt) or as JSON, by setting. Never prompts, tokens or text of requests.
//
// The log is the first thing to give when something is wrong with its file: a full disk, a closed pipe or one whose
// reader stands still costs the line, never the process; lost lines are counted (outrider_log_lines_lost_total).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace outrider {

enum class LogLevel { kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

// A line has at most so many bytes; what is beyond is cut. Within what a pipe takes whole (PIPE_BUF).
inline constexpr size_t kMaxLogLineBytes = 4096;

// {"request_id", "r-17"}, {"num_output_tokens", 12}. One whose value is empty is left out of its line.
struct LogField {
  LogField(absl::string_view name, absl::string_view value) : name(name), value(value) {}
  LogField(absl::string_view name, const char* value) : name(name), value(value) {}
  template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
  LogField(absl::string_view name, Number value) : name(name), value(absl::StrCat(value)), is_number(true) {}
  absl::string_view name;
  std::string value;
  bool is_number = false;
};

// What the lines of this process carry, such as "group-0/1". Call once, before other threads start. A closed pipe no
// longer ends the process from then on (SIGPIPE is ignored).
void SetLogProcess(const std::string& name);
// INVALID_ARGUMENT unless "text" or "json". Call before other threads start.
absl::Status SetLogFormat(const std::string& format);

// Writes one line. Thread safe; does not block.
void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});
// Since the start. Thread safe.
int64_t NumLogLinesLost();

// The line, with its end. `unix_ms` is milliseconds since 1970. Pure.
std::string FormatLogLine(LogFormat format, int64_t unix_ms, LogLevel level, absl::string_view process,
                          absl::string_view message, std::initializer_list<LogField> fields);

template <typename... Args>
void LogInfo(const Args&... args) {
  Log(LogLevel::kInfo, absl::StrCat(args...));
}
template <typename... Args>
void LogWarning(const Args&... args) {
  Log(LogLevel::kWarning, absl::StrCat(args...));
}
template <typename... Args>
void LogError(const Args&... args) {
  Log(LogLevel::kError, absl::StrCat(args...));
}

}  // namespace outrider
