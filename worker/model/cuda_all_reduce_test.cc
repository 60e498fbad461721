// Ranks that are processes, one a GPU: how they come together, equal bits by every transport, and a bound on waiting
// for a process that stopped or died. The test's own process never touches a GPU, so that it may fork.
#include "worker/model/cuda_all_reduce.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "kernels/common/dtype.h"
#include "worker/model/cuda_backend.h"
#include "worker/parallel/shm_communicator.h"

namespace outrider {
namespace {

constexpr uint64_t kEpoch = 5;
constexpr Duration kPatience = std::chrono::seconds(30);
constexpr int kFailed = 1, kTooFewGpus = 77;
constexpr int kSize = 576, kRowsMax = 300;

using Body = std::function<absl::Status(Communicator&)>;

// Forked ranks; killed and reaped at the end.
class Ranks {
 public:
  Ranks(int world_size, const Body& body) {
    int ends[2];
    CHECK(::pipe(ends) == 0);
    pids_.push_back(Fork(
        [&] {
          ::close(ends[0]);
          auto rendezvous = ShmRendezvous::Listen(world_size, kEpoch);
          CHECK(rendezvous.ok());
          const std::string& name = (*rendezvous)->socket_name();
          CHECK(::write(ends[1], name.data(), name.size()) == static_cast<ssize_t>(name.size()));
          ::close(ends[1]);
          auto communicator = (*rendezvous)->AwaitRanks(kPatience);
          return communicator.ok() ? body(**communicator) : communicator.status();
        },
        world_size));
    ::close(ends[1]);
    char name[256];
    const ssize_t size = ::read(ends[0], name, sizeof(name));
    ::close(ends[0]);
    if (size <= 0) return;  // too few GPUs, say
    const std::string socket_name(name, static_cast<size_t>(size));
    for (int rank = 1; rank < world_size; ++rank) {
      pids_.push_back(Fork(
          [&] {
            auto communicator = AttachShm(socket_name, rank, world_size, kEpoch, kPatience);
            return communicator.ok() ? body(**communicator) : communicator.status();
          },
          world_size));
    }
  }
  ~Ranks() {
    for (const pid_t pid : pids_) {
      if (pid <= 0) continue;
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }
  // The exit code of a rank that ends by itself.
  int Await(size_t rank) {
    int status = -1;
    ::waitpid(pids_[rank], &status, 0);
    pids_[rank] = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  size_t size() const { return pids_.size(); }

 private:
  template <typename Run>
  static pid_t Fork(const Run& run, int world_size) {
    const pid_t pid = ::fork();
    CHECK(pid >= 0);
    if (pid != 0) return pid;
    if (NumCudaDevices() < world_size) ::_exit(kTooFewGpus);
    const absl::Status status = run();
    if (!status.ok()) std::cerr << status << std::endl;
    ::_exit(status.ok() ? 0 : kFailed);
  }

  std::vector<pid_t> pids_;
};

// One rank's memory for sums, and the sum of `num_rows` rows of seeded parts.
class Sums {
 public:
  static absl::StatusOr<std::unique_ptr<Sums>> Create(Communicator& communicator, DeviceTransport transport,
                                                      Duration wait_max = kDeviceWaitMax) {
    auto sums = std::unique_ptr<Sums>(new Sums(communicator));
    ASSIGN_OR_RETURN(sums->all_reduce_, CudaAllReduce::Create({.communicator = &communicator,
                                                               .device_index = communicator.rank(),
                                                               .size = kSize,
                                                               .rows_max = kRowsMax,
                                                               .transport = transport,
                                                               .wait_max = wait_max}));
    if (sums->all_reduce_->transport() != transport) return absl::InternalError("another transport than was asked for");
    RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&sums->stream_, cudaStreamNonBlocking), "stream"));
    const int64_t count = int64_t{kRowsMax} * kSize;
    ASSIGN_OR_RETURN(sums->part_, CudaMemory::Allocate(CudaMemoryKind::kDevice, count * 2, "part"));
    ASSIGN_OR_RETURN(sums->hidden_, CudaMemory::Allocate(CudaMemoryKind::kDevice, count * 4, "hidden"));
    ASSIGN_OR_RETURN(sums->normed_, CudaMemory::Allocate(CudaMemoryKind::kDevice, count * 2, "normed"));
    const std::vector<float> ones(kSize, 1.0f);
    ASSIGN_OR_RETURN(sums->weight_, CudaMemory::Allocate(CudaMemoryKind::kDevice, kSize * 4, "weight"));
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpy(sums->weight_.data(), ones.data(), kSize * 4, cudaMemcpyHostToDevice), "weight"));
    return sums;
  }

  // *bits: what came out, hidden and normed rows. INTERNAL if the sums are not those of the host.
  absl::Status Run(int num_rows, uint64_t seed, std::string* bits) {
    const size_t count = static_cast<size_t>(num_rows) * kSize;
    const std::vector<uint16_t> own = Part(communicator_.rank(), count, seed);
    std::vector<float> hidden(count);
    for (size_t i = 0; i < count; ++i) hidden[i] = static_cast<float>(i % 97) * 0.125f - 6;
    RETURN_IF_ERROR(CudaStatus(cudaMemcpy(part_.data(), own.data(), count * 2, cudaMemcpyHostToDevice), "part"));
    RETURN_IF_ERROR(CudaStatus(cudaMemcpy(hidden_.data(), hidden.data(), count * 4, cudaMemcpyHostToDevice), "hidden"));
    RETURN_IF_ERROR(all_reduce_->Sum({.part = part_.data<uint16_t>(),
                                      .part_stride = kSize,
                                      .hidden = hidden_.data<float>(),
                                      .hidden_stride = kSize,
                                      .norm_weight = weight_.data<float>(),
                                      .normed = normed_.data<uint16_t>(),
                                      .normed_stride = kSize,
                                      .num_rows = num_rows,
                                      .size = kSize},
                                     stream_));
    RETURN_IF_ERROR(all_reduce_->Wait(stream_));
    bits->resize(count * 6);
    RETURN_IF_ERROR(CudaStatus(cudaMemcpy(bits->data(), hidden_.data(), count * 4, cudaMemcpyDeviceToHost), "hidden"));
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpy(bits->data() + count * 4, normed_.data(), count * 2, cudaMemcpyDeviceToHost), "normed"));
    std::vector<float> sum(count, 0.0f);
    for (int rank = 0; rank < communicator_.world_size(); ++rank) {
      const std::vector<uint16_t> part = Part(rank, count, seed);
      for (size_t i = 0; i < count; ++i) sum[i] += kernels::BF16ToF32(part[i]);
    }
    for (size_t i = 0; i < count; ++i) hidden[i] += sum[i];
    if (std::memcmp(hidden.data(), bits->data(), count * 4) != 0)
      return absl::InternalError("other sums than the host's");
    return absl::OkStatus();
  }

 private:
  explicit Sums(Communicator& communicator) : communicator_(communicator) {}

  static std::vector<uint16_t> Part(int rank, size_t count, uint64_t seed) {
    std::mt19937_64 random(seed * 31 + static_cast<uint64_t>(rank));
    std::vector<uint16_t> part(count);
    for (uint16_t& value : part) {
      const uint64_t drawn = random();
      const float magnitude = drawn % 300 == 0 ? 1000.0f : 1.0f;
      value = kernels::F32ToBF16(magnitude * (static_cast<float>(drawn >> 40) / 8388608.0f - 1.0f));
    }
    return part;
  }

  Communicator& communicator_;
  std::unique_ptr<CudaAllReduce> all_reduce_;
  cudaStream_t stream_ = nullptr;
  CudaMemory part_, hidden_, normed_, weight_;
};

absl::Status Meet(Communicator& communicator) {
  char own = 0;
  std::vector<int64_t> ones(static_cast<size_t>(communicator.world_size()), 1);
  std::string all(ones.size(), '-');
  return communicator.AllGather(&own, ones.data(), all.data());
}

bool HasNoNccl(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsUnimplemented(status);
}

TEST(CudaAllReduce, ProcessesGetTheSameBitsByEveryTransport) {
  Ranks ranks(2, [](Communicator& communicator) -> absl::Status {
    constexpr int kSizes[] = {1, 7, 64, 65, 300};
    std::vector<std::string> bits[2];
    for (const DeviceTransport transport : {DeviceTransport::kPeer, DeviceTransport::kNccl}) {
      auto sums = Sums::Create(communicator, transport);
      if (transport == DeviceTransport::kNccl && HasNoNccl(sums.status())) {
        std::cerr << "not compared with NCCL: " << sums.status().message() << std::endl;
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(sums.status());
      for (const int num_rows : kSizes) {
        std::string& got = bits[transport == DeviceTransport::kNccl].emplace_back();
        for (int repeat = 0; repeat < 3; ++repeat) RETURN_IF_ERROR((*sums)->Run(num_rows, 11 + num_rows, &got));
      }
      RETURN_IF_ERROR(Meet(communicator));  // nobody goes while another is at it
    }
    if (bits[0] != bits[1]) return absl::InternalError("NCCL gave other bits than peer memory");
    std::cerr << "rank " << communicator.rank() << ": equal bits by peer memory and NCCL" << std::endl;
    return absl::OkStatus();
  });
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const int code = ranks.Await(rank);
    if (code == kTooFewGpus) GTEST_SKIP() << "needs two GPUs";
    EXPECT_EQ(code, 0) << "rank " << rank;
  }
}

class CudaAllReduceFaults : public ::testing::TestWithParam<std::tuple<DeviceTransport, int>> {};

TEST_P(CudaAllReduceFaults, WaitingForAProcessThatStopsOrDiesEndsWithItsName) {
  const DeviceTransport transport = std::get<0>(GetParam());
  const int signal = std::get<1>(GetParam());
  Ranks ranks(2, [&](Communicator& communicator) -> absl::Status {
    auto sums = Sums::Create(communicator, transport, std::chrono::milliseconds(500));
    if (transport == DeviceTransport::kNccl && HasNoNccl(sums.status())) ::_exit(kTooFewGpus);
    RETURN_IF_ERROR(sums.status());
    std::string bits;
    RETURN_IF_ERROR((*sums)->Run(8, 1, &bits));
    RETURN_IF_ERROR(Meet(communicator));
    if (communicator.rank() == 1) {
      ::kill(::getpid(), signal);
      return absl::InternalError("still here");
    }
    const auto began = std::chrono::steady_clock::now();
    const absl::Status status = (*sums)->Run(8, 2, &bits);
    std::cerr << "after " << ToMillis(std::chrono::steady_clock::now() - began) << " ms: " << status << std::endl;
    // As a rank whose epoch ended: without an orderly end.
    ::_exit(status.ok() ? kFailed : 0);
  });
  const int code = ranks.Await(0);
  if (code == kTooFewGpus) GTEST_SKIP() << "needs two GPUs, and libnccl.so.2 for NCCL";
  EXPECT_EQ(code, 0);
}

INSTANTIATE_TEST_SUITE_P(Signals, CudaAllReduceFaults,
                         ::testing::Combine(::testing::Values(DeviceTransport::kPeer, DeviceTransport::kNccl),
                                            ::testing::Values(SIGSTOP, SIGKILL)));

TEST(CudaAllReduce, RefusesTwoProcessesOnOneGpu) {
  Ranks ranks(2, [](Communicator& communicator) -> absl::Status {
    const auto made = CudaAllReduce::Create({.communicator = &communicator, .size = kSize, .rows_max = kRowsMax});
    if (made.ok()) return absl::InternalError("two processes on one GPU were let through");
    if (made.status().message().find("ranks 0 and 1 are processes on the same GPU") == absl::string_view::npos) {
      return made.status();
    }
    return absl::OkStatus();
  });
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const int code = ranks.Await(rank);
    if (code == kTooFewGpus) GTEST_SKIP() << "needs two GPUs";
    EXPECT_EQ(code, 0);
  }
}

}  // namespace
}  // namespace outrider
