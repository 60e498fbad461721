#include "base/processors.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace outrider {
namespace {

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "QUOTA" and "PERIOD" in microseconds; anything that is no limit is 0.
double Granted(const std::string& quota, const std::string& period) {
  double quota_us = 0, period_us = 0;
  if (!absl::SimpleAtod(quota, &quota_us) || !absl::SimpleAtod(period, &period_us)) return 0;
  return quota_us > 0 && period_us > 0 ? quota_us / period_us : 0;
}

int NumAllowedProcessors() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

int NumGrantedProcessors(const std::string& root) {
  double least = 0;
  const auto limit = [&](double granted) {
    if (granted > 0) least = least == 0 ? granted : std::min(least, granted);
  };
  std::ifstream groups(absl::StrCat(root, "/proc/self/cgroup"));
  for (std::string line; std::getline(groups, line);) {
    // HIERARCHY:CONTROLLERS:PATH; version 2 has no controllers.
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(fields[1], ',');
    const bool is_v2 = fields[1].empty();
    if (!is_v2 && std::find(controllers.begin(), controllers.end(), "cpu") == controllers.end()) continue;
    // In a container the path may be the host's and be seen as the root.
    std::string path = fields[2];
    while (true) {
      if (path == "/") path.clear();
      if (is_v2) {
        const std::vector<std::string> max =
            absl::StrSplit(FirstLine(absl::StrCat(root, "/sys/fs/cgroup", path, "/cpu.max")), ' ');
        if (max.size() == 2) limit(Granted(max[0], max[1]));
      } else {
        for (const std::string& folder : {fields[1], std::string("cpu")}) {
          const std::string group = absl::StrCat(root, "/sys/fs/cgroup/", folder, path);
          limit(Granted(FirstLine(absl::StrCat(group, "/cpu.cfs_quota_us")),
                        FirstLine(absl::StrCat(group, "/cpu.cfs_period_us"))));
        }
      }
      if (path.empty()) break;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
  return least > 0 ? std::max(1, static_cast<int>(least)) : 0;
}

int NumUsableProcessors() {
  const int allowed = NumAllowedProcessors();
  const int granted = NumGrantedProcessors("");
  return granted > 0 ? std::min(allowed, granted) : allowed;
}

}  // namespace outrider
