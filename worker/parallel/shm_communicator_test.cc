#include "worker/parallel/shm_communicator.h"

#include <dirent.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "worker/parallel/collective_checks.h"
#include "worker/parallel/file_descriptor.h"

namespace outrider {
namespace {

constexpr uint64_t kEpoch = 77;
constexpr Duration kPatience = std::chrono::seconds(20);  // far beyond what any step takes

uint64_t Seed() {
  const char* set = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = set != nullptr ? std::strtoull(set, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << std::endl;
  return seed;
}

// A forked process; killed and reaped at the end. `body` returns its exit code.
class Child {
 public:
  explicit Child(const std::function<int()>& body) : pid_(fork()) {
    CHECK(pid_ >= 0);
    if (pid_ == 0) _exit(body());
  }
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  ~Child() {
    if (pid_ < 0) return;
    Signal(SIGKILL);
    Wait();
  }
  void Signal(int signal) const { kill(pid_, signal); }
  // The wait status; the child is reaped.
  int Wait() {
    int status = -1;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
  }
  // Returns when the child has been stopped by a signal.
  void AwaitStopped() const {
    int status = 0;
    while (waitpid(pid_, &status, WUNTRACED) < 0 && errno == EINTR) {
    }
    CHECK(WIFSTOPPED(status));
  }

 private:
  pid_t pid_;
};

int Report(const absl::Status& status) {
  if (!status.ok()) std::cerr << status << std::endl;
  return status.ok() ? 0 : 1;
}

// A forked rank that attaches and runs `body`.
Child ForkRank(const ShmRendezvous& rendezvous, int rank, int world_size,
               const std::function<absl::Status(Communicator&)>& body, RegionOptions options = {}) {
  return Child([&, rank] {
    // As after an exec: what the leader has open (all the pipes) is not this process's.
    close_range(3, ~0U, 0);
    auto communicator = AttachShm(rendezvous.socket_name(), rank, world_size, kEpoch, kPatience, options);
    return Report(communicator.ok() ? body(**communicator) : communicator.status());
  });
}

std::unique_ptr<ShmRendezvous> Listen(int world_size, RegionOptions options = {}) {
  auto rendezvous = ShmRendezvous::Listen(world_size, kEpoch, options);
  CHECK(rendezvous.ok());
  return *std::move(rendezvous);
}

int NumOpenFiles() {
  int count = 0;
  DIR* directory = opendir("/proc/self/fd");
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

class ShmRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, ShmRanks, ::testing::Values(1, 2, 3, 4));

TEST_P(ShmRanks, AgreeWithTheReferenceAcrossProcesses) {
  const int world_size = GetParam();
  const uint64_t seed = Seed();
  const auto body = [&](Communicator& communicator) {
    for (const int64_t count : {0, 1, 17, 576, 2304, 8192, 8193, 16384, 16385, 300001}) {
      RETURN_IF_ERROR(testing::CheckSum(communicator, seed, count));
    }
    return testing::CheckMixture(communicator, seed, 200, 300000);
  };
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(world_size);
  std::vector<Child> children;
  for (int rank = 1; rank < world_size; ++rank) children.push_back(ForkRank(*rendezvous, rank, world_size, body));
  auto communicator = rendezvous->AwaitRanks(kPatience);
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  const absl::Status status = body(**communicator);
  EXPECT_TRUE(status.ok()) << status;
  for (Child& child : children) EXPECT_EQ(child.Wait(), 0);
}

TEST(ShmCommunicator, LeavesNoFilesOpen) {
  const int num_open_files = NumOpenFiles();
  {
    const std::unique_ptr<ShmRendezvous> rendezvous = Listen(2);
    Child child = ForkRank(*rendezvous, 1, 2, [](Communicator& c) { return testing::CheckSum(c, 1, 10); });
    auto communicator = rendezvous->AwaitRanks(kPatience);
    ASSERT_TRUE(communicator.ok());
    EXPECT_TRUE(testing::CheckSum(**communicator, 1, 10).ok());
    EXPECT_EQ(child.Wait(), 0);
  }
  EXPECT_EQ(NumOpenFiles(), num_open_files);
}

TEST(ShmCommunicator, TakesTheChunkSizeOfTheLeader) {
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(2, {.chunk_bytes = 8192});
  Child child = ForkRank(*rendezvous, 1, 2, [](Communicator& c) { return testing::CheckSum(c, 1, 50000); });
  auto communicator = rendezvous->AwaitRanks(kPatience);
  ASSERT_TRUE(communicator.ok());
  EXPECT_TRUE(testing::CheckSum(**communicator, 1, 50000).ok());
  EXPECT_EQ(child.Wait(), 0);
}

// Ranks 0, 1 and 2 sum for ever; rank 1 is killed on the way. The survivors name it, soon.
TEST(ShmCommunicator, NamesAPeerKilledInMidCollective) {
  const auto sum_for_ever = [](Communicator& communicator) {
    std::vector<float> data(100000, 0.0f);
    absl::Status status;
    while (status.ok()) status = communicator.AllReduceSum(data.data(), static_cast<int64_t>(data.size()));
    return status;
  };
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(3);
  Child victim = ForkRank(*rendezvous, 1, 3, sum_for_ever);
  Child survivor = ForkRank(*rendezvous, 2, 3, [&](Communicator& communicator) {
    const absl::Status status = sum_for_ever(communicator);
    return status == absl::UnavailableError("rank 1 died") ? absl::OkStatus() : status;
  });
  auto communicator = rendezvous->AwaitRanks(kPatience);
  ASSERT_TRUE(communicator.ok());
  std::vector<float> data(100000, 0.0f);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE((*communicator)->AllReduceSum(data.data(), 100000).ok());
  victim.Signal(SIGKILL);
  const TimePoint start = std::chrono::steady_clock::now();
  EXPECT_EQ(sum_for_ever(**communicator), absl::UnavailableError("rank 1 died"));
  // Known within kLivenessInterval (100 ms); the rest is for a machine that is busy with other things.
  EXPECT_LT(ToMillis(std::chrono::steady_clock::now() - start), 500 + 1500);
  EXPECT_EQ(survivor.Wait(), 0);
}

TEST(ShmCommunicator, NamesAPeerThatStandsStill) {
  const RegionOptions options{.timeout = std::chrono::milliseconds(200)};
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(2, options);
  Child child = ForkRank(*rendezvous, 1, 2, [](Communicator& communicator) {
    RETURN_IF_ERROR(testing::CheckSum(communicator, 1, 10));
    raise(SIGSTOP);
    return testing::CheckSum(communicator, 1, 10);
  });
  auto communicator = rendezvous->AwaitRanks(kPatience);
  ASSERT_TRUE(communicator.ok());
  ASSERT_TRUE(testing::CheckSum(**communicator, 1, 10).ok());
  child.AwaitStopped();
  const absl::Status status = testing::CheckSum(**communicator, 1, 10);
  EXPECT_EQ(status, absl::UnavailableError("rank 1 did not arrive within 200 ms (rank 0 waited)"));
  // What comes back from the dead finds its group gone.
  child.Signal(SIGCONT);
  const int wait_status = child.Wait();
  EXPECT_TRUE(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 1);
}

TEST(ShmCommunicator, WakesProcessesThatSleepWhenAborted) {
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(2);
  Child child = ForkRank(*rendezvous, 1, 2, [](Communicator& communicator) {
    const absl::Status status = communicator.AwaitPeer(0);
    return status == absl::UnavailableError("enough") ? absl::OkStatus() : absl::InternalError(status.ToString());
  });
  auto communicator = rendezvous->AwaitRanks(kPatience);
  ASSERT_TRUE(communicator.ok());
  (*communicator)->Abort("enough");
  EXPECT_EQ(child.Wait(), 0);
}

// The leader is the child here: its name comes through a pipe, then it waits to be killed.
TEST(ShmCommunicator, TellsAnIdleFollowerThatItsLeaderDied) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const FileDescriptor read_end(ends[0]);
  FileDescriptor write_end(ends[1]);
  Child leader([&] {
    auto rendezvous = ShmRendezvous::Listen(2, kEpoch);
    const std::string name = (*rendezvous)->socket_name();
    if (write(write_end.get(), name.data(), name.size()) < 0) return 1;
    auto communicator = (*rendezvous)->AwaitRanks(kPatience);
    pause();
    return 0;
  });
  write_end.Close();
  char name[100];
  const ssize_t size = read(read_end.get(), name, sizeof(name));
  ASSERT_GT(size, 0);
  auto communicator = AttachShm(std::string(name, static_cast<size_t>(size)), 1, 2, kEpoch, kPatience);
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  leader.Signal(SIGKILL);
  EXPECT_EQ((*communicator)->AwaitPeer(0), absl::UnavailableError("rank 0 died"));
}

TEST(ShmRendezvous, NamesTheRanksThatAreMissing) {
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(3);
  EXPECT_EQ(rendezvous->AwaitRanks(std::chrono::milliseconds(10)).status(),
            absl::DeadlineExceededError("rank 1, 2 did not attach within 10 ms"));
}

TEST(ShmRendezvous, NamesARankThatDiedBeforeAllHadAttached) {
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(3);
  Child child = ForkRank(*rendezvous, 2, 3, [](Communicator&) { return absl::OkStatus(); });
  EXPECT_EQ(rendezvous->AwaitRanks(kPatience).status(),
            absl::UnavailableError("rank 2 died before all ranks had attached"));
}

TEST(ShmRendezvous, IsCancelled) {
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(2);
  rendezvous->Cancel();
  EXPECT_EQ(rendezvous->AwaitRanks(kPatience).status().code(), absl::StatusCode::kCancelled);
}

TEST(ShmRendezvous, RefusesSizesItCanNotServe) {
  EXPECT_EQ(ShmRendezvous::Listen(0, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ShmRendezvous::Listen(33, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ShmRendezvous::Listen(2, 1, {.chunk_bytes = 100}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ShmRendezvous::Listen(2, 1, {.chunk_bytes = 0}).status().code(), absl::StatusCode::kInvalidArgument);
}

// Connects to an abstract name and sends `bytes`; the connection stays open with the caller.
FileDescriptor ConnectAndSend(const std::string& name, const std::string& bytes) {
  FileDescriptor fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);
  CHECK(connect(fd.get(), reinterpret_cast<sockaddr*>(&address),
                static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())) == 0);
  if (!bytes.empty()) CHECK(send(fd.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  return fd;
}

TEST(ShmRendezvous, TurnsStrangersAwayAndServesItsRanks) {
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(2);
  const std::string& name = rendezvous->socket_name();
  std::vector<FileDescriptor> strangers;
  strangers.push_back(ConnectAndSend(name, ""));                       // says nothing
  strangers.push_back(ConnectAndSend(name, std::string(32, 'x')));     // a request's size, wrong magic
  strangers.push_back(ConnectAndSend(name, std::string(5, 'x')));      // too short
  strangers.push_back(ConnectAndSend(name, std::string(10000, 'x')));  // too long
  ConnectAndSend(name, "gone at once");
  Child child([&] {
    // Each is refused with words that name what is wrong; then the rank attaches and works.
    const auto refusal = [&](int rank, int world_size, uint64_t epoch) {
      const auto result = AttachShm(name, rank, world_size, epoch, kPatience);
      return result.status().code() == absl::StatusCode::kFailedPrecondition
                 ? std::string(result.status().message())
                 : absl::StrCat("no refusal: ", result.status().ToString());
    };
    const std::string world_size = refusal(1, 3, kEpoch);
    if (world_size != "the leader refused rank 1: world size 3, the group has 2 ranks") {
      return Report(absl::InternalError(world_size));
    }
    const std::string epoch = refusal(1, 2, kEpoch + 1);
    if (epoch != "the leader refused rank 1: epoch 78, the group's is 77") return Report(absl::InternalError(epoch));
    auto communicator = AttachShm(name, 1, 2, kEpoch, kPatience);
    return Report(communicator.ok() ? testing::CheckSum(**communicator, 1, 1000) : communicator.status());
  });
  auto communicator = rendezvous->AwaitRanks(kPatience);
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  EXPECT_TRUE(testing::CheckSum(**communicator, 1, 1000).ok());
  EXPECT_EQ(child.Wait(), 0);
}

TEST(ShmRendezvous, RefusesARankThatHasAttached) {
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(3);
  Child child([&] {
    auto first = AttachShm(rendezvous->socket_name(), 1, 3, kEpoch, kPatience);
    if (!first.ok()) return Report(first.status());
    auto again = AttachShm(rendezvous->socket_name(), 1, 3, kEpoch, kPatience);
    if (again.status() != absl::FailedPreconditionError("the leader refused rank 1: rank 1 has already attached")) {
      return Report(absl::InternalError(again.status().ToString()));
    }
    auto other = AttachShm(rendezvous->socket_name(), 2, 3, kEpoch, kPatience);
    if (!other.ok()) return Report(other.status());
    // Both ranks in one process: enough to be counted in.
    return Report((*first)->AwaitPeer(0).ok() ? absl::OkStatus() : absl::InternalError("no leader"));
  });
  auto communicator = rendezvous->AwaitRanks(kPatience);
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  char byte = 0;
  EXPECT_TRUE((*communicator)->Broadcast(&byte, 1, 0).ok());
  EXPECT_EQ(child.Wait(), 0);
}

TEST(ShmRendezvous, HoldsABoundedNumberOfSilentConnections) {
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(2);
  // More than may be pending: they pass one by one, so that the leader accepts between them.
  Child crowd([&] {
    std::vector<FileDescriptor> silent;
    for (int i = 0; i < 3 * kMaxPendingAttaches; ++i) silent.push_back(ConnectAndSend(rendezvous->socket_name(), ""));
    auto communicator = AttachShm(rendezvous->socket_name(), 1, 2, kEpoch, kPatience);
    return Report(communicator.ok() ? testing::CheckSum(**communicator, 1, 10) : communicator.status());
  });
  auto communicator = rendezvous->AwaitRanks(kPatience);
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  EXPECT_TRUE(testing::CheckSum(**communicator, 1, 10).ok());
  EXPECT_EQ(crowd.Wait(), 0);
}

TEST(AttachShm, SaysWhenNobodyListens) {
  EXPECT_EQ(AttachShm("@outrider-nobody", 1, 2, kEpoch, kPatience).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(AttachShm("/a/path", 1, 2, kEpoch, kPatience).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AttachShm("@x", 2, 2, kEpoch, kPatience).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(AttachShm, DoesNotWaitForEverForALeaderThatSaysNothing) {
  const std::unique_ptr<ShmRendezvous> rendezvous = Listen(2);  // nobody is in AwaitRanks
  EXPECT_EQ(AttachShm(rendezvous->socket_name(), 1, 2, kEpoch, std::chrono::milliseconds(20)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace outrider
