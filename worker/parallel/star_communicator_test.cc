#include "worker/parallel/star_communicator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <deque>
#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "worker/parallel/collective_checks.h"

namespace outrider {
namespace {

constexpr Duration kPatience = std::chrono::seconds(30);

uint64_t Seed() {
  const char* set = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = set != nullptr ? std::strtoull(set, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << std::endl;
  return seed;
}

// Bytes in memory: what lies between two ends.
class Wire {
 public:
  class End final : public ByteLink {
   public:
    End(std::shared_ptr<Wire> wire, int side, int peer) : wire_(std::move(wire)), side_(side), peer_(peer) {}

    absl::Status Send(std::initializer_list<absl::string_view> parts, TimePoint deadline) override {
      MutexLock lock(wire_->mu_);
      std::deque<char>& to = wire_->bytes_[side_];
      // A short one, so that both ends often wait.
      while (wire_->ended_.ok() && !wire_->left_[1 - side_] && to.size() > 3 * kStarPieceBytes) {
        if (!wire_->changed_.WaitUntil(wire_->mu_, deadline)) return absl::DeadlineExceededError("full");
      }
      RETURN_IF_ERROR(wire_->ended_);
      if (wire_->left_[1 - side_]) return HasLeft();
      for (const absl::string_view part : parts) to.insert(to.end(), part.begin(), part.end());
      wire_->changed_.NotifyAll();
      return absl::OkStatus();
    }
    absl::Status Receive(void* data, int64_t bytes, TimePoint deadline) override {
      MutexLock lock(wire_->mu_);
      std::deque<char>& from = wire_->bytes_[1 - side_];
      for (int64_t done = 0; done < bytes;) {
        if (from.empty()) {
          RETURN_IF_ERROR(wire_->ended_);
          if (wire_->left_[1 - side_]) return HasLeft();
          if (!wire_->changed_.WaitUntil(wire_->mu_, deadline)) return absl::DeadlineExceededError("empty");
          continue;
        }
        static_cast<char*>(data)[done++] = from.front();
        from.pop_front();
        if (from.size() == 2 * kStarPieceBytes) wire_->changed_.NotifyAll();
      }
      wire_->changed_.NotifyAll();
      return absl::OkStatus();
    }
    absl::Status AwaitBytes() override {
      MutexLock lock(wire_->mu_);
      while (wire_->bytes_[1 - side_].empty()) {
        RETURN_IF_ERROR(wire_->ended_);
        if (wire_->left_[1 - side_]) return HasLeft();
        wire_->changed_.Wait(wire_->mu_);
      }
      return absl::OkStatus();
    }
    void Leave() override {
      MutexLock lock(wire_->mu_);
      wire_->left_[side_] = true;
      wire_->changed_.NotifyAll();
    }
    void Abort(absl::string_view reason) override {
      MutexLock lock(wire_->mu_);
      if (wire_->ended_.ok()) wire_->ended_ = absl::UnavailableError(reason);
      wire_->changed_.NotifyAll();
    }

   private:
    absl::Status HasLeft() const { return absl::UnavailableError(absl::StrCat("rank ", peer_, " has left")); }

    const std::shared_ptr<Wire> wire_;
    const int side_;
    const int peer_;
  };

 private:
  Mutex mu_;
  CondVar changed_;
  std::deque<char> bytes_[2] ABSL_GUARDED_BY(mu_);
  bool left_[2] ABSL_GUARDED_BY(mu_) = {false, false};
  absl::Status ended_ ABSL_GUARDED_BY(mu_);
};

std::vector<std::unique_ptr<Communicator>> CreateStar(int world_size, Duration timeout = kPatience) {
  std::vector<std::unique_ptr<Communicator>> communicators(static_cast<size_t>(world_size));
  std::vector<std::shared_ptr<ByteLink>> links(static_cast<size_t>(world_size));
  for (int r = 1; r < world_size; ++r) {
    const auto wire = std::make_shared<Wire>();
    links[r] = std::make_shared<Wire::End>(wire, 0, r);
    communicators[r] = MakeStarPoint(std::make_shared<Wire::End>(wire, 1, 0), r, world_size, timeout);
  }
  communicators[0] = MakeStarCentre(std::move(links), timeout);
  return communicators;
}

std::vector<absl::Status> RunRanks(int world_size, const std::function<absl::Status(Communicator&)>& body) {
  return testing::RunRanks(CreateStar(world_size), body);
}

class StarRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, StarRanks, ::testing::Values(1, 2, 3, 4));

TEST_P(StarRanks, SumInRankOrderBitForBitAtEverySize) {
  const uint64_t seed = Seed();
  // Around a piece (65536), and more than are under way at a time.
  const std::vector<int64_t> counts = {0, 1, 2, 577, 2304, 65535, 65536, 65537, 7 * 65536 + 1};
  testing::ExpectAllOk(RunRanks(GetParam(), [&](Communicator& communicator) {
    for (const int64_t count : counts) RETURN_IF_ERROR(testing::CheckSum(communicator, seed, count));
    return absl::OkStatus();
  }));
}

TEST_P(StarRanks, AgreeOverRandomRunsOfCollectives) {
  const uint64_t seed = Seed();
  testing::ExpectAllOk(RunRanks(
      GetParam(), [&](Communicator& communicator) { return testing::CheckMixture(communicator, seed, 150, 600000); }));
}

TEST(StarCommunicator, FindsRanksThatRunApart) {
  for (const int kind : {0, 1, 2}) {
    const std::vector<absl::Status> statuses = RunRanks(2, [&](Communicator& communicator) {
      float values[2] = {1, 2};
      if (communicator.rank() == 0 || kind == 0) RETURN_IF_ERROR(communicator.AllReduceSum(values, 1));
      if (communicator.rank() == 0) return communicator.AllReduceSum(values, 1);
      if (kind != 1) return communicator.AllReduceSum(values, 2);
      RETURN_IF_ERROR(communicator.Broadcast(values, 4, 1));
      return communicator.AwaitPeer(0);
    });
    for (const absl::Status& status : statuses) EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_TRUE(absl::StrContains(statuses[0].message(), "rank 1 is in collective")) << statuses[0];
    EXPECT_EQ(statuses[1], statuses[0]);
  }
}

TEST(StarCommunicator, AbortEndsTheWaitsOfAllWithItsReason) {
  for (const int who : {0, 1, 2}) {
    const std::vector<absl::Status> statuses = RunRanks(3, [&](Communicator& communicator) {
      float value = 0;
      if (communicator.rank() == who) communicator.Abort("one has had enough");
      return communicator.AllReduceSum(&value, 1);
    });
    for (const absl::Status& status : statuses) EXPECT_EQ(status, absl::UnavailableError("one has had enough"));
  }
}

TEST(StarCommunicator, NamesTheRankThatDoesNotArrive) {
  std::vector<std::unique_ptr<Communicator>> communicators = CreateStar(2, std::chrono::milliseconds(30));
  float value = 0;
  const absl::Status status = communicators[0]->AllReduceSum(&value, 1);
  EXPECT_EQ(status, absl::UnavailableError("rank 1 did not arrive within 30 ms (rank 0 waited)"));
  EXPECT_EQ(communicators[1]->AllReduceSum(&value, 1), status);
}

TEST(StarCommunicator, NamesTheRankThatLeft) {
  const std::vector<absl::Status> statuses = RunRanks(3, [](Communicator& communicator) {
    float value = 1;
    RETURN_IF_ERROR(communicator.AllReduceSum(&value, 1));
    return communicator.rank() == 2 ? absl::OkStatus() : communicator.AllReduceSum(&value, 1);
  });
  EXPECT_EQ(statuses[0], absl::UnavailableError("rank 2 has left"));
  EXPECT_EQ(statuses[1], absl::UnavailableError("rank 2 has left"));
  EXPECT_TRUE(statuses[2].ok());
}

TEST(StarCommunicator, AwaitsTheCentreBeyondTheBoundOfCollectives) {
  std::vector<std::unique_ptr<Communicator>> communicators = CreateStar(2, std::chrono::milliseconds(1));
  std::atomic<bool> waiting{false};
  absl::Status status;
  std::thread follower([&] {
    waiting = true;
    status = communicators[1]->AwaitPeer(0);
  });
  // Far longer than the bound, without work in between: the time it takes is the test.
  const TimePoint start = std::chrono::steady_clock::now();
  while (!waiting || std::chrono::steady_clock::now() - start < std::chrono::milliseconds(20)) {
    std::this_thread::yield();
  }
  std::string sent = "abc";
  ASSERT_TRUE(communicators[0]->Broadcast(sent.data(), 3, 0).ok());
  follower.join();
  EXPECT_TRUE(status.ok()) << status;
}

TEST(StarCommunicator, EndsAnIdleWaitWhenTheCentreLeavesOrAborts) {
  for (const bool abort : {false, true}) {
    std::vector<std::unique_ptr<Communicator>> communicators = CreateStar(2);
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
