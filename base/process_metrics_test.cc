#include "base/process_metrics.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace outrider {
namespace {

// A name with blanks and brackets is within the law.
constexpr char kStat[] =
    "42 (a b) c) S 1 42 42 0 -1 4194304 100 0 0 0 250 150 0 0 20 0 3 0 1000 8192000 50 18446744073709551615 1 1 0";

TEST(FormatProcessMetrics, ReadsWhatTheSystemTells) {
  const std::string text = FormatProcessMetrics({.stat = kStat,
                                                 .limits = "Limit                     Soft Limit  Hard Limit  Units\n"
                                                           "Max open files            1024        4096        files\n",
                                                 .system_stat = "cpu 1 2\nbtime 1700000000\nprocesses 3\n",
                                                 .num_open_files = 7,
                                                 .ticks_per_second = 100,
                                                 .page_bytes = 4096});
  EXPECT_NE(text.find("\nprocess_cpu_seconds_total 4\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\nprocess_virtual_memory_bytes 8192000\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\nprocess_resident_memory_bytes 204800\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\nprocess_start_time_seconds 1700000010\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\nprocess_open_fds 7\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\nprocess_max_fds 1024\n"), std::string::npos) << text;
  EXPECT_NE(text.find("# TYPE process_cpu_seconds_total counter\n"), std::string::npos) << text;
}

TEST(FormatProcessMetrics, LeavesOutWhatItCanNotRead) {
  EXPECT_EQ(FormatProcessMetrics({}), "");
  EXPECT_EQ(FormatProcessMetrics({.stat = "42 (x", .limits = "Max open files unlimited\n"}), "");
}

int NumOpenFilesToldOf() {
  const std::string text = ProcessMetrics();
  const std::string name = "\nprocess_open_fds ";
  const size_t at = text.find(name);
  return at == std::string::npos ? -1 : std::atoi(text.c_str() + at + name.size());
}

TEST(ProcessMetrics, CountOpenFiles) {
  const int before = NumOpenFilesToldOf();
  std::vector<int> files;
  for (int i = 0; i < 100; ++i) files.push_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(NumOpenFilesToldOf(), before + 100);
  for (const int file : files) ::close(file);
  EXPECT_EQ(NumOpenFilesToldOf(), before);
}

TEST(ProcessMetrics, AreThere) {
  const std::string text = ProcessMetrics();
  for (const char* name : {"process_cpu_seconds_total", "process_virtual_memory_bytes", "process_resident_memory_bytes",
                           "process_start_time_seconds", "process_open_fds", "process_max_fds"}) {
    EXPECT_NE(text.find(std::string("\n") + name + " "), std::string::npos) << name << " in " << text;
  }
}

}  // namespace
}  // namespace outrider
