#include "base/process_metrics.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace outrider {
namespace {

// Fields of /proc/PID/stat from its third on, the state; the second, a name in brackets, may hold anything. proc(5).
constexpr size_t kUserTicks = 14 - 3;
constexpr size_t kSystemTicks = 15 - 3;
constexpr size_t kStartTicks = 22 - 3;
constexpr size_t kVirtualBytes = 23 - 3;
constexpr size_t kResidentPages = 24 - 3;

std::optional<double> Number(absl::string_view text) {
  double value;
  if (!absl::SimpleAtod(text, &value)) return std::nullopt;
  return value;
}

std::optional<double> Field(const std::vector<absl::string_view>& fields, size_t index) {
  return index < fields.size() ? Number(fields[index]) : std::nullopt;
}

// The first number after `name` at the start of a line.
std::optional<double> NumberAfter(absl::string_view text, absl::string_view name) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.substr(0, name.size()) != name) continue;
    const std::vector<absl::string_view> words = absl::StrSplit(line.substr(name.size()), ' ', absl::SkipEmpty());
    return Field(words, 0);
  }
  return std::nullopt;
}

void Append(const char* name, const char* type, const char* help, std::optional<double> value, std::string& out) {
  if (!value.has_value()) return;
  char number[32];
  std::snprintf(number, sizeof(number), "%.15g", *value);
  absl::StrAppend(&out, "# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n", name, " ", number, "\n");
}

// The files this process has open; 0 if the system does not say. Linux has their number as the folder's size (6.2 and
// later, where listing 10,000 of them takes 8 ms); before, they are listed.
int NumOpenFiles() {
  constexpr char kFolder[] = "/proc/self/fd";
  struct stat status {};
  if (::stat(kFolder, &status) == 0 && status.st_size > 0) return static_cast<int>(status.st_size);
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(kFolder), ::closedir);
  int count = -3;  // beside ".", ".." and the folder itself
  while (folder != nullptr && ::readdir(folder.get()) != nullptr) ++count;
  return std::max(count, 0);
}

std::string ReadAll(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

std::string FormatProcessMetrics(const ProcessFacts& facts) {
  std::vector<absl::string_view> fields;
  absl::string_view stat = facts.stat;
  if (const size_t end = stat.rfind(')'); end != absl::string_view::npos) {
    fields = absl::StrSplit(stat.substr(end + 1), ' ', absl::SkipEmpty());
  }
  std::string out;
  const auto user = Field(fields, kUserTicks), system = Field(fields, kSystemTicks);
  if (user && system) {
    Append("process_cpu_seconds_total", "counter", "Processor time of this process.",
           (*user + *system) / facts.ticks_per_second, out);
  }
  Append("process_virtual_memory_bytes", "gauge", "Addresses this process has mapped.", Field(fields, kVirtualBytes),
         out);
  if (const auto pages = Field(fields, kResidentPages)) {
    Append("process_resident_memory_bytes", "gauge", "Memory of this process in use.", *pages * facts.page_bytes, out);
  }
  const auto start = Field(fields, kStartTicks), boot = NumberAfter(facts.system_stat, "btime ");
  if (start && boot) {
    Append("process_start_time_seconds", "gauge", "When this process started, since 1970.",
           *boot + *start / facts.ticks_per_second, out);
  }
  if (facts.num_open_files > 0) {
    Append("process_open_fds", "gauge", "Files and sockets this process has open.", facts.num_open_files, out);
  }
  Append("process_max_fds", "gauge", "Files and sockets this process may open.",
         NumberAfter(facts.limits, "Max open files"), out);
  return out;
}

std::string ProcessMetrics() {
  ProcessFacts facts;
  facts.stat = ReadAll("/proc/self/stat");
  facts.limits = ReadAll("/proc/self/limits");
  // Read once: when the system started does not change, and with it come counters of every interrupt.
  static const std::string boot_line = [] {
    const std::string stat = ReadAll("/proc/stat");
    const size_t at = stat.find("\nbtime ");
    return at == std::string::npos ? std::string() : stat.substr(at + 1, stat.find('\n', at + 1) - at);
  }();
  facts.system_stat = boot_line;
  facts.ticks_per_second = static_cast<double>(::sysconf(_SC_CLK_TCK));
  facts.page_bytes = static_cast<double>(::sysconf(_SC_PAGESIZE));
  facts.num_open_files = NumOpenFiles();
  return FormatProcessMetrics(facts);
}

}  // namespace outrider
