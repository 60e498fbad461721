// termination.h and atomic_file.h
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <future>
#include <string>
#include <thread>

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
        TerminationWatcher watcher(Duration::zero());
        std::promise<void> told;
        watcher.OnSignal([&] { told.set_value(); });
        kill(getpid(), SIGTERM);
        told.get_future().wait();
        kill(getpid(), SIGTERM);
        pause();
      },
      testing::ExitedWithCode(130), "second signal");
}

// `timeout 10 outrider target ...` signals the process, then the process group that it is in.
TEST(TerminationWatcher, TakesSignalsThatComeAtOnceForOne) {
  TerminationWatcher watcher(std::chrono::hours(1));
  int num_told = 0;  // on the watcher's thread, then here
  std::promise<void> told;
  watcher.OnSignal([&] {
    if (++num_told == 1) told.set_value();
  });
  ASSERT_EQ(kill(getpid(), SIGTERM), 0);
  told.get_future().wait();
  // Each is taken before the next is sent, so that the last but one has been dealt with.
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(kill(getpid(), SIGTERM), 0);
    for (sigset_t pending; sigpending(&pending), sigismember(&pending, SIGTERM) == 1;) std::this_thread::yield();
  }
  watcher.OnSignal([] {});  // what was given before is not running any more
  EXPECT_EQ(num_told, 1);
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
