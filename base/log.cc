#include "base/log.h"

#include <unistd.h>

#include <cstdio>
#include <ctime>

namespace outrider {
namespace {

std::string& ProcessName() {
  static std::string name = "outrider";
  return name;
}

}  // namespace

void SetLogProcess(const std::string& name) { ProcessName() = name; }

void Log(LogLevel level, const std::string& message) {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc;
  gmtime_r(&now.tv_sec, &utc);
  char stamp[40];
  std::snprintf(stamp, sizeof(stamp), "%02d:%02d:%02d.%03d", utc.tm_hour, utc.tm_min, utc.tm_sec,
                static_cast<int>(now.tv_nsec / 1000000));
  const char letter = level == LogLevel::kInfo ? 'I' : level == LogLevel::kWarning ? 'W' : 'E';
  std::string line = absl::StrCat(std::string(1, letter), " ", stamp, " ", ProcessName(), "] ", message);
  for (char& c : line) {
    if (c == '\n') c = ' ';
  }
  line += '\n';
  // One write, so that lines of several processes do not mix.
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

}  // namespace outrider
