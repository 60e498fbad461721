#include "worker/parallel/loopback_communicator.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "worker/parallel/collective_checks.h"

namespace outrider {
namespace {

uint64_t Seed() {
  const char* set = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = set != nullptr ? std::strtoull(set, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << std::endl;
  return seed;
}

std::vector<absl::Status> RunRanks(int world_size, const std::function<absl::Status(Communicator&)>& body,
                                   RegionOptions options = {}) {
  return testing::RunRanks(CreateLoopbackCommunicators(world_size, options), body);
}

class LoopbackRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, LoopbackRanks, ::testing::Values(1, 2, 3, 4));

TEST_P(LoopbackRanks, SumInRankOrderBitForBitAtEverySize) {
  const uint64_t seed = Seed();
  // Around a cache line, a decode step of SmolLM2, the limit of one round and of a chunk (16384), several
  // chunks.
  const std::vector<int64_t> counts = {0,    1,    2,    3,    15,    16,    17,    575,   576,           577,
                                       2304, 8191, 8192, 8193, 16384, 16385, 32768, 49157, 5 * 16384 + 1, 200003};
  testing::ExpectAllOk(RunRanks(GetParam(), [&](Communicator& communicator) {
    for (const int64_t count : counts) RETURN_IF_ERROR(testing::CheckSum(communicator, seed, count));
    return absl::OkStatus();
  }));
}

TEST_P(LoopbackRanks, GatherPartsOfUnequalSizes) {
  const int world_size = GetParam();
  testing::ExpectAllOk(RunRanks(world_size, [&](Communicator& communicator) {
    for (const int64_t base : {int64_t{0}, int64_t{16}, int64_t{65536}, int64_t{150000}}) {
      std::vector<int64_t> bytes_of_rank;
      for (int r = 0; r < world_size; ++r) bytes_of_rank.push_back(base * (world_size - r - 1) + (r % 2) * 7);
      RETURN_IF_ERROR(testing::CheckGather(communicator, 1, bytes_of_rank));
    }
    return absl::OkStatus();
  }));
}

TEST_P(LoopbackRanks, BroadcastFromEveryRoot) {
  const int world_size = GetParam();
  testing::ExpectAllOk(RunRanks(world_size, [&](Communicator& communicator) {
    for (int root = 0; root < world_size; ++root) {
      for (const int64_t size : {0, 1, 65536, 65537, 300000}) {
        RETURN_IF_ERROR(testing::CheckBroadcast(communicator, 2, size, root));
      }
    }
    return absl::OkStatus();
  }));
}

TEST_P(LoopbackRanks, BroadcastBlobsWhoseSizeOnlyTheRootKnows) {
  const int world_size = GetParam();
  testing::ExpectAllOk(RunRanks(world_size, [&](Communicator& communicator) {
    for (const int64_t size : {0, 1, 4087, 4088, 4089, 70000, 1000000}) {
      RETURN_IF_ERROR(testing::CheckBlob(communicator, 3, size, world_size - 1));
    }
    return absl::OkStatus();
  }));
}

TEST_P(LoopbackRanks, AgreeOverRandomRunsOfCollectives) {
  const uint64_t seed = Seed();
  // Small chunks, so that most collectives take several rounds; no spinning in half of the runs, so that ranks sleep.
  for (const int spin_us : {50, 0}) {
    testing::ExpectAllOk(RunRanks(
        GetParam(), [&](Communicator& communicator) { return testing::CheckMixture(communicator, seed, 150, 100000); },
        {.spin = std::chrono::microseconds(spin_us), .chunk_bytes = 4096}));
  }
}

TEST(LoopbackCommunicator, RefusesABlobBeyondTheBoundAndGoesOn) {
  testing::ExpectAllOk(RunRanks(2, [&](Communicator& communicator) {
    if (communicator.rank() == 0) {
      std::string blob(static_cast<size_t>(kMaxBlobBytes) + 1, 'x');
      EXPECT_EQ(BroadcastBlob(communicator, &blob, 0).code(), absl::StatusCode::kResourceExhausted);
    }
    return testing::CheckBlob(communicator, 1, 100, 0);
  }));
}

TEST(LoopbackCommunicator, AbortEndsTheWaitsOfAllWithItsReason) {
  const std::vector<absl::Status> statuses = RunRanks(3, [](Communicator& communicator) {
    float value = 0;
    if (communicator.rank() == 1) {
      communicator.Abort("rank 1 has had enough");
      return communicator.AllReduceSum(&value, 1);
    }
    return communicator.AllReduceSum(&value, 1);
  });
  for (const absl::Status& status : statuses) EXPECT_EQ(status, absl::UnavailableError("rank 1 has had enough"));
}

TEST(LoopbackCommunicator, StaysDeadAfterAnAbort) {
  std::vector<std::unique_ptr<Communicator>> communicators = CreateLoopbackCommunicators(2);
  communicators[1]->Abort("over");
  communicators[0]->Abort("later words do not count");
  float value = 0;
  const int64_t bytes_of_rank[2] = {4, 4};
  float received[2];
  EXPECT_EQ(communicators[0]->AllReduceSum(&value, 1), absl::UnavailableError("over"));
  EXPECT_EQ(communicators[0]->AllGather(&value, bytes_of_rank, received), absl::UnavailableError("over"));
  EXPECT_EQ(communicators[0]->Broadcast(&value, 4, 0), absl::UnavailableError("over"));
  EXPECT_EQ(communicators[1]->AwaitPeer(0), absl::UnavailableError("over"));
}

TEST(LoopbackCommunicator, CutsAReasonThatIsTooLong) {
  std::vector<std::unique_ptr<Communicator>> communicators = CreateLoopbackCommunicators(2);
  communicators[0]->Abort(std::string(100000, 'x').c_str());
  const absl::Status status = communicators[1]->AwaitPeer(0);
  EXPECT_EQ(status, absl::UnavailableError(std::string(511, 'x')));
}

TEST(LoopbackCommunicator, NamesTheRankThatDoesNotArrive) {
  std::vector<std::unique_ptr<Communicator>> communicators =
      CreateLoopbackCommunicators(2, {.timeout = std::chrono::milliseconds(30)});
  float value = 0;
  const absl::Status status = communicators[0]->AllReduceSum(&value, 1);
  EXPECT_EQ(status, absl::UnavailableError("rank 1 did not arrive within 30 ms (rank 0 waited)"));
  EXPECT_EQ(communicators[1]->AllReduceSum(&value, 1), status);
}

TEST(LoopbackCommunicator, NamesTheRankThatLeft) {
  const std::vector<absl::Status> statuses = RunRanks(3, [](Communicator& communicator) {
    float value = 1;
    RETURN_IF_ERROR(communicator.AllReduceSum(&value, 1));
    return communicator.rank() == 2 ? absl::OkStatus() : communicator.AllReduceSum(&value, 1);
  });
  EXPECT_EQ(statuses[0], absl::UnavailableError("rank 2 has left"));
  EXPECT_EQ(statuses[1], absl::UnavailableError("rank 2 has left"));
  EXPECT_TRUE(statuses[2].ok());
}

TEST(LoopbackCommunicator, LetsARankLeaveAfterTheLastCollectiveItTakesPartIn) {
  for (int i = 0; i < 200; ++i) {
    testing::ExpectAllOk(RunRanks(3, [](Communicator& communicator) { return testing::CheckSum(communicator, 5, 10); },
                                  {.spin = std::chrono::microseconds(0)}));
  }
}

TEST(LoopbackCommunicator, AwaitsAPeerBeyondTheBoundOfCollectives) {
  std::vector<std::unique_ptr<Communicator>> communicators =
      CreateLoopbackCommunicators(2, {.timeout = std::chrono::milliseconds(1)});
  std::atomic<bool> waiting{false};
  absl::Status status;
  std::string received(3, '-');
  std::thread follower([&] {
    waiting = true;
    status = communicators[1]->AwaitPeer(0);
    if (status.ok()) status = communicators[1]->Broadcast(received.data(), 3, 0);
  });
  // Far longer than the bound, without work in between: the time it takes is the test.
  const TimePoint start = std::chrono::steady_clock::now();
  while (!waiting || std::chrono::steady_clock::now() - start < std::chrono::milliseconds(20))
    std::this_thread::yield();
  std::string sent = "abc";
  ASSERT_TRUE(communicators[0]->Broadcast(sent.data(), 3, 0).ok());
  follower.join();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(received, "abc");
}

TEST(LoopbackCommunicator, EndsAnIdleWaitWhenThePeerLeavesOrAborts) {
  for (const bool abort : {false, true}) {
    std::vector<std::unique_ptr<Communicator>> communicators = CreateLoopbackCommunicators(2);
    absl::Status status;
    std::thread follower([&] { status = communicators[1]->AwaitPeer(0); });
    if (abort) communicators[0]->Abort("stop");
    communicators[0].reset();
    follower.join();
    EXPECT_EQ(status, absl::UnavailableError(abort ? "stop" : "rank 0 has left"));
  }
}

}  // namespace
}  // namespace outrider
