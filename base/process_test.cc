// termination.h and atomic_file.h
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <future>
#include <string>

#include "base/atomic_file.h"
#include "base/termination.h"

namespace outrider {
namespace {

TEST(TerminationWatcher, RunsTheActionOnTheFirstSignal) {
  TerminationWatcher watcher;
  std::promise<void> told;
  watcher.OnSignal([&] { told.set_value(); });
  ASSERT_EQ(kill(getpid(), SIGTERM), 0);
  told.get_future().wait();
}

TEST(TerminationWatcherDeathTest, EndsAtOnceOnTheSecondSignal) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        TerminationWatcher watcher;
        std::promise<void> told;
        watcher.OnSignal([&] { told.set_value(); });
        kill(getpid(), SIGTERM);
        told.get_future().wait();
        kill(getpid(), SIGTERM);
        pause();
      },
      testing::ExitedWithCode(130), "second signal");
}

TEST(TerminationWatcherDeathTest, EndsAtOnceBeforeAnythingIsServed) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        TerminationWatcher watcher;
        kill(getpid(), SIGTERM);
        pause();
      },
      testing::ExitedWithCode(0), "before serving");
}

TEST(WriteFileAtomically, ReplacesTheFileAndLeavesNothingElse) {
  const std::string path = testing::TempDir() + "/address";
  ASSERT_TRUE(WriteFileAtomically(path, "one").ok());
  ASSERT_TRUE(WriteFileAtomically(path, "two").ok());
  std::string content;
  std::ifstream(path) >> content;
  EXPECT_EQ(content, "two");
  EXPECT_NE(access((path + "." + std::to_string(getpid()) + ".tmp").c_str(), F_OK), 0);
}

TEST(WriteFileAtomically, NamesThePathItCanNotWrite) {
  const absl::Status status = WriteFileAtomically("/no/such/folder/file", "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(status.message()).find("/no/such/folder/file"), std::string::npos);
}

}  // namespace
}  // namespace outrider
