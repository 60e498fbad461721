#include "base/processors.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

namespace outrider {
namespace {

// A system's /proc and /sys with what a test puts there.
class Granted : public ::testing::Test {
 protected:
  Granted() : root_(::testing::TempDir() + "/processors-" + std::to_string(::getpid()) + "-" + Name()) {}
  ~Granted() override { std::filesystem::remove_all(root_); }

  static std::string Name() { return ::testing::UnitTest::GetInstance()->current_test_info()->name(); }

  void Write(const std::string& path, const std::string& content) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << content;
  }

  const std::string root_;
};

TEST_F(Granted, IsUnlimitedWithoutCgroups) { EXPECT_EQ(NumGrantedProcessors(root_), 0); }

TEST_F(Granted, IsUnlimitedWhereTheGroupSaysMax) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(NumGrantedProcessors(root_), 0);
}

TEST_F(Granted, IsRoundedDownToWholeProcessorsButOne) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/cpu.max", "250000 100000\n");
  EXPECT_EQ(NumGrantedProcessors(root_), 2);
  Write("/sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(NumGrantedProcessors(root_), 1);
}

TEST_F(Granted, IsTheLeastOfAllAncestors) {
  Write("/proc/self/cgroup", "0::/kubepods/pod1/main\n");
  Write("/sys/fs/cgroup/kubepods/pod1/main/cpu.max", "max 100000\n");
  Write("/sys/fs/cgroup/kubepods/pod1/cpu.max", "300000 100000\n");
  Write("/sys/fs/cgroup/kubepods/cpu.max", "1600000 100000\n");
  EXPECT_EQ(NumGrantedProcessors(root_), 3);
}

TEST_F(Granted, IsReadFromTheControllerOfVersionOne) {
  Write("/proc/self/cgroup", "4:memory:/a\n3:cpu,cpuacct:/docker/b\n0::/\n");
  // The container sees its own group as the root.
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(NumGrantedProcessors(root_), 4);
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(NumGrantedProcessors(root_), 0);
}

TEST_F(Granted, IsUnlimitedByWhatCanNotBeRead) {
  Write("/proc/self/cgroup", "nonsense\n0::/\n::::\n");
  Write("/sys/fs/cgroup/cpu.max", "many few\n");
  EXPECT_EQ(NumGrantedProcessors(root_), 0);
  Write("/sys/fs/cgroup/cpu.max", "100000 0\n");
  EXPECT_EQ(NumGrantedProcessors(root_), 0);
}

TEST(NumUsableProcessors, FollowsTheAffinityOfTheThread) {
  const int all = NumUsableProcessors();
  EXPECT_GE(all, 1);
  EXPECT_LE(all, static_cast<int>(std::thread::hardware_concurrency()));
  cpu_set_t allowed, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  int first = 0;
  while (!CPU_ISSET(first, &allowed)) ++first;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(NumUsableProcessors(), 1);
  sched_setaffinity(0, sizeof(allowed), &allowed);
}

}  // namespace
}  // namespace outrider
