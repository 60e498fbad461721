#include "cli/supervisor.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/health.h"
#include "base/metrics.h"

namespace outrider {
namespace {

// Children are shells; what they write tells what happened. Waits poll a file, bounded by the test's own timeout.
class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Supervisor::BlockSignals();
    std::string pattern = ::testing::TempDir() + "/supervisor.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  static ProcessPlan Shell(const std::string& name, const std::string& script) { return {name, {"-c", script}}; }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string Read(const std::string& name) const {
    std::ifstream file(Path(name));
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  int NumLines(const std::string& name) const {
    const std::string text = Read(name);
    return static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  }
  void AwaitLines(const std::string& name, int count) const {
    while (NumLines(name) < count) ::usleep(2000);
  }
  static bool Lives(pid_t pid) { return ::kill(pid, 0) == 0; }

  std::string folder_;
  SupervisorOptions options_{.program = "/bin/sh"};
};

TEST_F(SupervisorTest, StartsAUnitAgainWhenItEnds) {
  Supervisor supervisor(options_);
  supervisor.Add({"unit", {Shell("unit", "echo x >> " + Path("starts") + "; exit 1")}});
  supervisor.MarkReady();
  std::thread stopper([&] {
    AwaitLines("starts", 3);
    supervisor.Stop();
  });
  supervisor.Run().IgnoreError();
  stopper.join();
  EXPECT_GE(supervisor.num_restarts(), 2);
}

TEST_F(SupervisorTest, KillsTheRestOfAUnitAndStartsAllOfItAnew) {
  Supervisor supervisor(options_);
  // Rank 0 stays; rank 1 ends the first time only, once rank 0 has been seen.
  supervisor.Add({"group",
                  {Shell("rank0", "echo $$ >> " + Path("rank0") + "; exec sleep 1000"),
                   Shell("rank1", "echo $$ >> " + Path("rank1") + "; [ $(wc -l < " + Path("rank1") +
                                      ") -gt 1 ] && exec sleep 1000; while [ ! -s " + Path("rank0") +
                                      " ]; do sleep 0.01; done; exit 3")}});
  supervisor.MarkReady();
  std::thread stopper([&] {
    AwaitLines("rank0", 2);
    AwaitLines("rank1", 2);
    supervisor.Stop();
  });
  const std::string stopped(supervisor.Run().message());  // in whichever order they went
  EXPECT_NE(stopped.find("rank0 killed by signal 15"), std::string::npos) << stopped;
  EXPECT_NE(stopped.find("rank1 killed by signal 15"), std::string::npos) << stopped;
  stopper.join();
  pid_t pid;
  for (const char* name : {"rank0", "rank1"}) {
    std::istringstream pids(Read(name));
    while (pids >> pid) EXPECT_FALSE(Lives(pid)) << name;
  }
}

TEST_F(SupervisorTest, KillsAndStartsAgainAUnitOfWhichAProcessHangs) {
  MetricsRegistry registry;
  ProcessHealth health;
  std::atomic<bool> hangs{false};
  health.Set([&] { return hangs ? "stuck" : ""; }, [] { return ""; });
  std::string folder = "/tmp/outrider-XXXXXX";  // a socket's path has 107 bytes at most
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string address = "unix:" + folder + "/health";
  const auto pages = MetricsServer::Start(address, 0, registry, &health);
  ASSERT_TRUE(pages.ok()) << pages.status();
  options_.watch = {.silence_max = std::chrono::milliseconds(1500), .start_max = std::chrono::milliseconds(1500)};
  Supervisor supervisor(options_);
  ProcessPlan watched = Shell("rank1", "exec sleep 1000");
  watched.health_address = address;
  supervisor.Add({"group", {Shell("rank0", "echo $$ >> " + Path("rank0") + "; exec sleep 1000"), watched}});
  supervisor.MarkReady();
  std::thread stopper([&] {
    AwaitLines("rank0", 1);
    hangs = true;
    AwaitLines("rank0", 2);
    supervisor.Stop();
  });
  supervisor.Run().IgnoreError();
  stopper.join();
  EXPECT_GE(supervisor.num_hangs(), 1);
  EXPECT_GE(supervisor.Restarts().at("group"), 1);
  EXPECT_FALSE(Lives(std::stoi(Read("rank0"))));
  std::filesystem::remove_all(folder);
}

TEST_F(SupervisorTest, LetsTheRestOfAUnitEndByItselfWhenOneEndsInOrder) {
  Supervisor supervisor(options_);
  supervisor.Add({"group",
                  {Shell("rank0", "echo x >> " + Path("starts") + "; exit 0"),
                   Shell("rank1", "trap '' TERM; sleep 0.2; echo x >> " + Path("left") + "; exit 0")}});
  supervisor.MarkReady();
  std::thread stopper([&] {
    AwaitLines("left", 1);
    AwaitLines("starts", 2);
    supervisor.Stop();
  });
  supervisor.Run().IgnoreError();
  stopper.join();
}

TEST_F(SupervisorTest, GivesUpOnAUnitThatNeverComesUp) {
  Supervisor supervisor(options_);
  supervisor.Add({"stays", {Shell("stays", "exec sleep 1000")}});
  supervisor.Add({"broken", {Shell("broken", "exit 7")}});
  const absl::Status status = supervisor.Run();
  EXPECT_NE(status.message().find("broken can not be started: broken exited with code 7"), absl::string_view::npos)
      << status.message();
}

TEST_F(SupervisorTest, GivesUpAtOnceWhenSettingsAreWrong) {
  Supervisor supervisor(options_);
  supervisor.Add({"usage", {Shell("usage", "echo x >> " + Path("starts") + "; exit 2")}});
  EXPECT_FALSE(supervisor.Run().ok());
  EXPECT_EQ(NumLines("starts"), 1);
}

TEST_F(SupervisorTest, StopsTheFirstUnitBeforeTheOthers) {
  Supervisor supervisor(options_);
  const auto unit = [&](const std::string& name) {
    return UnitPlan{name,
                    {Shell(name, "trap 'echo " + name + " >> " + Path("order") + "; exit 0' TERM; echo x >> " +
                                     Path("up") + "; while :; do sleep 0.01; done")}};
  };
  supervisor.Add(unit("router"));
  supervisor.Add(unit("group"));
  std::thread stopper([&] {
    AwaitLines("up", 2);
    supervisor.Stop();
  });
  EXPECT_TRUE(supervisor.Run().ok());
  stopper.join();
  EXPECT_EQ(Read("order"), "router\ngroup\n");
}

// `timeout 10 outrider serve` signals serve, then the process group that serve is in.
TEST_F(SupervisorTest, TakesASignalThatComesTwiceAtOnceForOne) {
  options_.same_signal_bound = std::chrono::hours(1);
  Supervisor supervisor(options_);
  supervisor.Add({"unit",
                  {Shell("unit", "trap 'echo x >> " + Path("told") + "; sleep 0.2; exit 0' TERM; echo x >> " +
                                     Path("up") + "; while :; do sleep 0.01; done")}});
  std::thread sender([&] {
    AwaitLines("up", 1);
    ::kill(::getpid(), SIGTERM);
    AwaitLines("told", 1);
    ::kill(::getpid(), SIGTERM);
  });
  EXPECT_TRUE(supervisor.Run().ok());
  sender.join();
}

TEST_F(SupervisorTest, KillsAtOnceOnASecondSignal) {
  options_.same_signal_bound = Duration::zero();
  Supervisor supervisor(options_);
  supervisor.Add(
      {"slow",
       {Shell("slow", "trap 'echo x >> " + Path("told") + "; while :; do sleep 0.01; done' TERM; echo x >> " +
                          Path("up") + "; while :; do sleep 0.01; done")}});
  std::thread sender([&] {
    AwaitLines("up", 1);
    ::kill(::getpid(), SIGTERM);
    AwaitLines("told", 1);
    ::kill(::getpid(), SIGTERM);
  });
  const absl::Status status = supervisor.Run();
  sender.join();
  EXPECT_NE(status.message().find("slow had to be killed"), absl::string_view::npos) << status.message();
}

TEST_F(SupervisorTest, KillsWhatIgnoresTheStop) {
  options_.drain_bound = std::chrono::milliseconds(50);
  options_.stop_bound = std::chrono::milliseconds(50);
  Supervisor supervisor(options_);
  supervisor.Add(
      {"deaf", {Shell("deaf", "trap '' TERM; echo $$ >> " + Path("pid") + "; while :; do sleep 0.01; done")}});
  std::thread stopper([&] {
    AwaitLines("pid", 1);
    supervisor.Stop();
  });
  const absl::Status status = supervisor.Run();
  stopper.join();
  EXPECT_NE(status.message().find("deaf had to be killed"), absl::string_view::npos) << status.message();
  EXPECT_FALSE(Lives(std::stoi(Read("pid"))));
}

TEST_F(SupervisorTest, ChildrenDieWithASupervisorKilledByForce) {
  const pid_t supervising = ::fork();
  ASSERT_GE(supervising, 0);
  if (supervising == 0) {
    Supervisor supervisor(options_);
    supervisor.Add({"child", {Shell("child", "echo $$ >> " + Path("pid") + "; exec sleep 1000")}});
    supervisor.Run().IgnoreError();
    ::_exit(0);
  }
  AwaitLines("pid", 1);
  const pid_t child = std::stoi(Read("pid"));
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // the orphan comes to us, so that its end can be awaited
  ::kill(supervising, SIGKILL);
  ::waitpid(supervising, nullptr, 0);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

}  // namespace
}  // namespace outrider
