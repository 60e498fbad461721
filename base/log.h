// One line a record on standard error: time, level, process, message. Never prompts or tokens.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"

namespace outrider {

enum class LogLevel { kInfo, kWarning, kError };

// What the lines of this process begin with, such as "target-0/1". Call once, before other threads start.
void SetLogProcess(const std::string& name);

// Writes one line. Thread safe; a full disk or closed pipe is ignored.
void Log(LogLevel level, const std::string& message);

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
