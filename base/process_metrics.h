// The process_* metrics that Prometheus clients show by convention, from /proc/self: processor time, memory, files,
// start.
#pragma once

#include <string>

namespace outrider {

// What /proc/self/stat, /proc/self/limits and /proc/stat say, and the number of open files.
struct ProcessFacts {
  std::string stat;
  std::string limits;
  std::string system_stat;
  int num_open_files = 0;
  double ticks_per_second = 100;
  double page_bytes = 4096;
};

// In Prometheus' text format. What can not be read from a fact is left out. Pure.
std::string FormatProcessMetrics(const ProcessFacts& facts);

// This process's, as of now.
std::string ProcessMetrics();

}  // namespace outrider
