// A group as real processes, one of which is killed or stopped: the others end by themselves, soon and with an error.
//
// The test itself never uses gRPC, which does not survive a fork; its children do.
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "worker/group/step_broadcast.h"
#include "worker/group/summing_backend.h"
#include "worker/parallel/file_descriptor.h"
#include "worker/rpc/group_client.h"
#include "worker/rpc/group_service.h"
#include "worker/rpc/testing/socket_address.h"

namespace outrider {
namespace {

constexpr int kWorldSize = 3;
constexpr Duration kPatience = std::chrono::seconds(30);

struct GroupUnderTest {
  bool remote = false;  // ranks can not share memory
  bool idle = false;    // the leader runs 20 steps, then nothing; else steps for ever
  // Far beyond the test's own patience unless said: what is found is not found by it.
  Duration step_timeout = std::chrono::hours(1);
  Duration silence_max = std::chrono::seconds(2);
};

// The leader as a process: tells through `progress` when 20 steps have run.
int RunLeader(const GroupUnderTest& test, const std::string& address, int progress) {
  auto group = LeaderGroup::Create({.world_size = kWorldSize,
                                    .numerics_id = "aa",
                                    .num_kv_blocks_max = 10,
                                    .step_timeout = test.step_timeout,
                                    .silence_max = test.silence_max});
  CHECK(group.ok());
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterService((*group)->service());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  CHECK(server != nullptr);
  CHECK((*group)->WaitForRanks(kPatience).ok());
  testing::SummingBackend local((*group)->communicator(), 0);
  GroupBackend backend(local, (*group)->communicator());
  for (uint64_t step = 1;; ++step) {
    if (step == 21) CHECK(write(progress, "x", 1) == 1);
    if (step == 21 && test.idle) pause();
    absl::Status status = backend.Submit(testing::PlanOf(step, 2));
    if (status.ok()) status = backend.Collect().status();
    if (!status.ok()) ExitAtEndOfEpoch(std::string(status.message()));
  }
}

int RunRank(const GroupUnderTest& test, const std::string& address, int rank) {
  // Another host has a network of its own; where that may not be made, a name of its own must do.
  const bool is_apart = test.remote && unshare(CLONE_NEWNET) == 0;
  FollowerGroupOptions options{.leader_address = address,
                               .rank = rank,
                               .world_size = kWorldSize,
                               .numerics_id = "aa",
                               .num_kv_blocks_max = 10,
                               .join_timeout = kPatience,
                               .step_timeout = test.step_timeout,
                               .silence_max = test.silence_max};
  if (test.remote && !is_apart) options.host = "elsewhere";
  const absl::Status status = RunFollowerRank(options, {}, [](Communicator& communicator, int64_t) {
    return std::make_unique<testing::SummingBackend>(communicator, 0);
  });
  ExitAtEndOfEpoch(status.ToString());
}

class Processes {
 public:
  explicit Processes(const GroupUnderTest& test) {
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    const FileDescriptor read_end(ends[0]);
    FileDescriptor write_end(ends[1]);
    const std::string address = NewSocketAddress();
    for (int rank = 0; rank < kWorldSize; ++rank) {
      const pid_t pid = fork();
      CHECK(pid >= 0);
      if (pid == 0) _exit(rank == 0 ? RunLeader(test, address, write_end.get()) : RunRank(test, address, rank));
      pids_.push_back(pid);
    }
    write_end.Close();
    char byte;
    CHECK(read(read_end.get(), &byte, 1) == 1);  // the group runs
    unlink(address.substr(5).c_str());
  }
  ~Processes() {
    for (size_t rank = 0; rank < pids_.size(); ++rank) {
      if (pids_[rank] < 0) continue;
      Signal(static_cast<int>(rank), SIGKILL);
      Wait(static_cast<int>(rank));
    }
  }

  void Signal(int rank, int signal) const { kill(pids_[rank], signal); }
  // Reaps the rank's process; its wait status.
  int Wait(int rank) {
    int status = -1;
    CHECK(waitpid(pids_[rank], &status, 0) == pids_[rank]);
    pids_[rank] = -1;
    return status;
  }
  void ExpectEndsByItself(int rank) {
    const int status = Wait(rank);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == kEndOfEpochExitCode) << rank << ": " << status;
  }

 private:
  std::vector<pid_t> pids_;
};

// What is bounded by 0.5 s, on a machine that may be busy with other things.
void ExpectSoon(TimePoint since) { EXPECT_LT(ToMillis(std::chrono::steady_clock::now() - since), 500 + 2500); }

// The parameter: whether ranks are on several hosts.
class GroupProcesses : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Hosts, GroupProcesses, ::testing::Values(false, true),
                         [](const auto& info) { return std::string(info.param ? "Several" : "One"); });

TEST_P(GroupProcesses, AllEndWhenAFollowerIsKilled) {
  Processes group({.remote = GetParam()});
  group.Signal(1, SIGKILL);
  const TimePoint killed = std::chrono::steady_clock::now();
  group.ExpectEndsByItself(0);
  group.ExpectEndsByItself(2);
  ExpectSoon(killed);
}

TEST_P(GroupProcesses, AllEndWhenTheLeaderIsKilled) {
  Processes group({.remote = GetParam()});
  group.Signal(0, SIGKILL);
  const TimePoint killed = std::chrono::steady_clock::now();
  group.ExpectEndsByItself(1);
  group.ExpectEndsByItself(2);
  ExpectSoon(killed);
}

TEST_P(GroupProcesses, AllEndWhenTheLeaderOfAnIdleGroupIsKilled) {
  Processes group({.remote = GetParam(), .idle = true});
  group.Signal(0, SIGKILL);
  const TimePoint killed = std::chrono::steady_clock::now();
  group.ExpectEndsByItself(1);
  group.ExpectEndsByItself(2);
  ExpectSoon(killed);
}

TEST_P(GroupProcesses, AllEndWhenAFollowerOfAnIdleGroupIsKilled) {
  Processes group({.remote = GetParam(), .idle = true});
  group.Signal(2, SIGKILL);
  const TimePoint killed = std::chrono::steady_clock::now();
  group.ExpectEndsByItself(0);
  group.ExpectEndsByItself(1);
  ExpectSoon(killed);
}

TEST_P(GroupProcesses, AllEndWhenAFollowerStandsStill) {
  Processes group({.remote = GetParam()});
  group.Signal(1, SIGSTOP);
  group.ExpectEndsByItself(0);
  group.ExpectEndsByItself(2);
  // What comes back finds its epoch over.
  group.Signal(1, SIGCONT);
  group.ExpectEndsByItself(1);
}

TEST_P(GroupProcesses, AllEndWhenAFollowerOfAnIdleGroupStandsStill) {
  Processes group({.remote = GetParam(), .idle = true});
  group.Signal(1, SIGSTOP);
  group.ExpectEndsByItself(0);
  group.ExpectEndsByItself(2);
}

TEST_P(GroupProcesses, AllEndWhenTheLeaderStandsStill) {
  for (const bool idle : {false, true}) {
    Processes group({.remote = GetParam(), .idle = idle});
    group.Signal(0, SIGSTOP);
    group.ExpectEndsByItself(1);
    group.ExpectEndsByItself(2);
    // What comes back finds its epoch over.
    group.Signal(0, SIGCONT);
    group.ExpectEndsByItself(0);
  }
}

TEST_P(GroupProcesses, AllEndWhenARankIsSilentInAStepThatMayLastForAnHour) {
  Processes group({.remote = GetParam(), .silence_max = std::chrono::milliseconds(500)});
  group.Signal(2, SIGSTOP);
  group.ExpectEndsByItself(0);
  group.ExpectEndsByItself(1);
}

TEST_P(GroupProcesses, AllEndWhenTheLeaderStandsStillInAStep) {
  Processes group({.remote = GetParam(), .step_timeout = std::chrono::milliseconds(700)});
  group.Signal(0, SIGSTOP);
  group.Signal(1, SIGKILL);  // wherever the others were, they now miss somebody
  group.ExpectEndsByItself(2);
}

}  // namespace
}  // namespace outrider
