// LeaderGroup and FollowerGroup over real gRPC on a unix socket, ranks as threads.
#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "proto/group.grpc.pb.h"
#include "worker/group/step_broadcast.h"
#include "worker/group/summing_backend.h"
#include "worker/parallel/collective_checks.h"
#include "worker/rpc/group_client.h"
#include "worker/rpc/group_service.h"
#include "worker/rpc/testing/socket_address.h"

namespace outrider {
namespace {

using testing::PlanOf;
using testing::SummingBackend;

// Keeps the library up between tests: bringing it down can take it 10 s.
const bool grpc_stays_up = (grpc_init(), true);

constexpr Duration kPatience = std::chrono::seconds(30);  // far beyond what any step takes

// A leader with its server.
class Leader {
 public:
  explicit Leader(LeaderGroup::Options options, const std::string& address = NewSocketAddress()) : address_(address) {
    options.on_broken = [this](const std::string& reason) { broken_.set_value(reason); };
    auto group = LeaderGroup::Create(std::move(options));
    EXPECT_TRUE(group.ok()) << group.status();
    group_ = *std::move(group);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
    builder.RegisterService(group_->service());
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
  }
  ~Leader() { server_->Shutdown(std::chrono::system_clock::now()); }

  const std::string& address() const { return address_; }
  LeaderGroup& group() { return *group_; }
  // Waits for on_broken; its reason.
  std::string AwaitBroken() { return broken_.get_future().get(); }

 private:
  const std::string address_;
  std::promise<std::string> broken_;
  std::unique_ptr<LeaderGroup> group_;
  std::unique_ptr<grpc::Server> server_;  // goes first
};

FollowerGroupOptions FollowerOptionsOf(const std::string& address, int rank, int world_size) {
  return {.leader_address = address,
          .rank = rank,
          .world_size = world_size,
          .numerics_id = "aa",
          .num_kv_blocks_max = 100 + rank,
          .join_timeout = kPatience,
          .on_stuck = [](const std::string& reason) { ADD_FAILURE() << reason; }};
}

// A follower rank as a thread.
class FollowerThread {
 public:
  explicit FollowerThread(FollowerGroupOptions options)
      : thread_([this, options] {
          status_ = RunFollowerRank(options, {}, [&](Communicator& communicator, int64_t num_kv_blocks) {
            num_kv_blocks_ = num_kv_blocks;
            started_.set_value();
            return std::make_unique<SummingBackend>(communicator, 0);
          });
        }) {}
  ~FollowerThread() {
    if (thread_.joinable()) thread_.join();
  }
  absl::Status Join() {
    thread_.join();
    return status_;
  }
  // Returns when the epoch has started for this rank.
  void AwaitStarted() { started_.get_future().wait(); }
  int64_t num_kv_blocks() const { return num_kv_blocks_; }

 private:
  absl::Status status_;
  std::atomic<int64_t> num_kv_blocks_{0};
  std::promise<void> started_;
  std::thread thread_;
};

TEST(GroupRpc, RanksJoinRunStepsAndAreStopped) {
  Leader leader({.world_size = 3, .numerics_id = "aa", .num_kv_blocks_max = 1000});
  FollowerThread one(FollowerOptionsOf(leader.address(), 1, 3));
  FollowerThread two(FollowerOptionsOf(leader.address(), 2, 3));
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  EXPECT_EQ(leader.group().num_kv_blocks(), 101);
  SummingBackend local(leader.group().communicator(), 0);
  GroupBackend backend(local, leader.group().communicator());
  for (uint64_t step = 1; step <= 20; ++step) {
    ASSERT_TRUE(backend.Submit(PlanOf(step, 3)).ok());
    ASSERT_EQ(backend.Collect()->spans[2].tokens[0], static_cast<TokenId>(3 * (3 + step)));
  }
  leader.group().ExpectEnd();
  ASSERT_TRUE(backend.Stop().ok());
  EXPECT_TRUE(one.Join().ok());
  EXPECT_TRUE(two.Join().ok());
  // Both have gone, and that was no news.
  EXPECT_TRUE(leader.group().status().ok());
  leader.group().Stop();
  EXPECT_EQ(one.num_kv_blocks(), 101);
  EXPECT_EQ(two.num_kv_blocks(), 101);
}

// A rank that can not share memory with the leader.
FollowerGroupOptions RemoteOptionsOf(const std::string& address, int rank, int world_size) {
  FollowerGroupOptions options = FollowerOptionsOf(address, rank, world_size);
  options.host = absl::StrCat("host ", rank);
  return options;
}

TEST(GroupRpc, RanksOfSeveralHostsRunStepsOverStreams) {
  for (const bool all_remote : {true, false}) {  // one on another host is enough
    Leader leader({.world_size = 3, .numerics_id = "aa", .num_kv_blocks_max = 1000});
    FollowerThread one(all_remote ? RemoteOptionsOf(leader.address(), 1, 3)
                                  : FollowerOptionsOf(leader.address(), 1, 3));
    FollowerThread two(RemoteOptionsOf(leader.address(), 2, 3));
    ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
    SummingBackend local(leader.group().communicator(), 0);
    GroupBackend backend(local, leader.group().communicator());
    for (uint64_t step = 1; step <= 20; ++step) {
      ASSERT_TRUE(backend.Submit(PlanOf(step, 3)).ok());
      ASSERT_EQ(backend.Collect()->spans[2].tokens[0], static_cast<TokenId>(3 * (3 + step)));
    }
    leader.group().ExpectEnd();
    ASSERT_TRUE(backend.Stop().ok());
    leader.group().Stop();
    EXPECT_TRUE(one.Join().ok());
    EXPECT_TRUE(two.Join().ok());
  }
}

// A backend whose step is a run of collectives of all kinds and sizes.
class MixingBackend final : public StepBackend {
 public:
  explicit MixingBackend(Communicator& communicator) : communicator_(communicator) {}
  int depth() const override { return 0; }
  absl::Status Submit(const StepPlan& plan) override {
    step_ = plan.step;
    return testing::CheckMixture(communicator_, plan.step.value, 60, 3 << 20);
  }
  absl::StatusOr<StepResult> Collect() override { return StepResult{.step = step_}; }

 private:
  Communicator& communicator_;
  StepId step_;
};

TEST(GroupRpc, CollectivesOverStreamsGiveWhatTheReferenceGives) {
  Leader leader({.world_size = 3, .numerics_id = "aa", .num_kv_blocks_max = 1000});
  std::vector<std::thread> followers;
  for (const int rank : {1, 2}) {
    followers.emplace_back([&leader, rank] {
      const absl::Status status = RunFollowerRank(
          RemoteOptionsOf(leader.address(), rank, 3), {},
          [](Communicator& communicator, int64_t) { return std::make_unique<MixingBackend>(communicator); });
      EXPECT_TRUE(status.ok()) << status;
    });
  }
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  MixingBackend local(leader.group().communicator());
  GroupBackend backend(local, leader.group().communicator());
  for (uint64_t step = 1; step <= 3; ++step) {
    const absl::Status status = backend.Submit(PlanOf(step, 1));
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(backend.Collect().ok());
  }
  leader.group().ExpectEnd();
  EXPECT_TRUE(backend.Stop().ok());
  leader.group().Stop();
  for (std::thread& follower : followers) follower.join();
}

TEST(GroupRpc, AnAbortOnAnyHostEndsAllWithItsReason) {
  for (const int who : {0, 1, 2}) {
    Leader leader({.world_size = 3, .numerics_id = "aa", .num_kv_blocks_max = 1000});
    std::vector<std::thread> ranks;
    for (const int rank : {1, 2}) {
      ranks.emplace_back([&leader, rank, who] {
        const auto group = FollowerGroup::Join(RemoteOptionsOf(leader.address(), rank, 3));
        ASSERT_TRUE(group.ok()) << group.status();
        float value = 0;
        if (rank == who) (*group)->communicator().Abort("one has had enough");
        EXPECT_EQ((*group)->communicator().AllReduceSum(&value, 1), absl::UnavailableError("one has had enough"));
        (*group)->Finished();
      });
    }
    ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
    leader.group().ExpectEnd();
    float value = 0;
    if (who == 0) leader.group().communicator().Abort("one has had enough");
    EXPECT_EQ(leader.group().communicator().AllReduceSum(&value, 1), absl::UnavailableError("one has had enough"));
    for (std::thread& rank : ranks) rank.join();
    leader.group().Stop();
  }
}

TEST(GroupRpc, ALostRankOfAnotherHostBreaksARunningEpoch) {
  Leader leader({.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 5});
  std::thread thread([&] {
    auto follower = FollowerGroup::Join(RemoteOptionsOf(leader.address(), 1, 2));
    EXPECT_TRUE(follower.ok()) << follower.status();
  });
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  thread.join();
  EXPECT_EQ(leader.AwaitBroken(), "rank 1 is lost: its stream ended");
  float value = 0;
  EXPECT_EQ(leader.group().communicator().AllReduceSum(&value, 1).code(), absl::StatusCode::kUnavailable);
}

TEST(GroupRpc, ExchangesOfStrangersAreRefused) {
  Leader leader({.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 5});
  const auto exchange = [&](const v1::ExchangeFrame& frame) {
    const auto stub = v1::Group::NewStub(grpc::CreateChannel(leader.address(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    auto stream = stub->Exchange(&context);
    stream->Write(frame);
    v1::ExchangeFrame answer;
    while (stream->Read(&answer)) {
    }
    return stream->Finish().error_message();
  };
  v1::ExchangeFrame frame;
  EXPECT_EQ(exchange(frame), "an exchange of another epoch, or without hello");
  frame.set_data("at once");
  EXPECT_EQ(exchange(frame), "an exchange of another epoch, or without hello");
  frame.mutable_hello()->set_epoch(leader.group().epoch());
  frame.mutable_hello()->set_rank(1);
  EXPECT_EQ(exchange(frame), "the ranks of this group share memory");
  FollowerThread follower(RemoteOptionsOf(leader.address(), 1, 2));
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  EXPECT_EQ(exchange(frame), "rank 1 exchanges already");
  for (const uint32_t rank : {0u, 2u, 0xffffffffu}) {
    frame.mutable_hello()->set_rank(rank);
    EXPECT_EQ(exchange(frame), absl::StrCat("rank ", rank, " is not in [1, 2)"));
  }
  EXPECT_TRUE(leader.group().status().ok());
  leader.group().communicator().Abort("enough");
  EXPECT_EQ(follower.Join(), absl::UnavailableError("enough"));
}

TEST(GroupRpc, AGroupOfOneWaitsForNobody) {
  Leader leader({.world_size = 1, .numerics_id = "aa", .num_kv_blocks_max = 1000});
  ASSERT_TRUE(leader.group().WaitForRanks(Duration::zero()).ok());
  EXPECT_EQ(leader.group().num_kv_blocks(), 1000);
  EXPECT_EQ(leader.group().communicator().world_size(), 1);
  FollowerThread stray(FollowerOptionsOf(leader.address(), 1, 2));
  EXPECT_EQ(stray.Join(), absl::FailedPreconditionError("rank 1 is of a group of 2 ranks, this group has 1"));
}

TEST(GroupRpc, AFollowerMayComeBeforeItsLeader) {
  const std::string address = NewSocketAddress();
  FollowerThread follower(FollowerOptionsOf(address, 1, 2));
  Leader leader({.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 5}, address);
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  SummingBackend local(leader.group().communicator(), 0);
  EXPECT_TRUE(GroupBackend(local, leader.group().communicator()).Stop().ok());
  EXPECT_TRUE(follower.Join().ok());
  EXPECT_EQ(follower.num_kv_blocks(), 5);
}

TEST(GroupRpc, AnotherModelIsRefusedNamingBothAndTheLeaderWaitsOn) {
  Leader leader({.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 5});
  FollowerGroupOptions options = FollowerOptionsOf(leader.address(), 1, 2);
  options.numerics_id = "bb";
  FollowerThread stranger(options);
  EXPECT_EQ(stranger.Join(),
            absl::FailedPreconditionError(
                "rank 1 has numerics_id \"bb\", the leader \"aa\": other weights, options, build or processor"));
  FollowerThread follower(FollowerOptionsOf(leader.address(), 1, 2));
  EXPECT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  leader.group().communicator().Abort("enough");
  EXPECT_EQ(follower.Join(), absl::UnavailableError("enough"));
}

TEST(GroupRpc, MissingRanksAreNamed) {
  Leader leader({.world_size = 3, .numerics_id = "aa", .num_kv_blocks_max = 5});
  const absl::Status status = leader.group().WaitForRanks(std::chrono::milliseconds(20));
  EXPECT_EQ(status, absl::DeadlineExceededError("rank 1, 2 did not join within 20 ms"));
}

TEST(GroupRpc, AFollowerGivesUpWithoutALeader) {
  FollowerGroupOptions options = FollowerOptionsOf(NewSocketAddress(), 1, 2);
  options.join_timeout = std::chrono::milliseconds(50);
  FollowerThread follower(options);
  EXPECT_EQ(follower.Join().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(GroupRpc, ALostFollowerBreaksARunningEpoch) {
  Leader leader({.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 5});
  std::thread thread([&] {
    auto follower = FollowerGroup::Join(FollowerOptionsOf(leader.address(), 1, 2));
    EXPECT_TRUE(follower.ok()) << follower.status();
  });
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  thread.join();
  EXPECT_EQ(leader.AwaitBroken(), "rank 1 is lost: its stream ended");
  EXPECT_EQ(leader.group().status(), absl::UnavailableError("rank 1 is lost: its stream ended"));
  float value = 0;
  EXPECT_EQ(leader.group().communicator().AllReduceSum(&value, 1).code(), absl::StatusCode::kUnavailable);
}

TEST(GroupRpc, AFollowerLostBeforeAllAreInEndsTheWait) {
  Leader leader({.world_size = 3, .numerics_id = "aa", .num_kv_blocks_max = 5});
  std::thread thread([&] {
    FollowerGroupOptions options = FollowerOptionsOf(leader.address(), 1, 3);
    options.join_timeout = std::chrono::milliseconds(300);  // rank 2 never comes
    EXPECT_EQ(FollowerGroup::Join(options).status().code(), absl::StatusCode::kDeadlineExceeded);
  });
  EXPECT_EQ(leader.group().WaitForRanks(kPatience).code(), absl::StatusCode::kUnavailable);
  thread.join();
}

TEST(GroupRpc, AStopEndsTheWaitForRanks) {
  // Who of the waiting threads wakes first is chance, so many times.
  for (int i = 0; i < 200; ++i) {
    auto group = LeaderGroup::Create({.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 1});
    ASSERT_TRUE(group.ok()) << group.status();
    std::thread stopping([&] { (*group)->Stop(); });
    const absl::Status status = (*group)->WaitForRanks(kPatience);
    stopping.join();
    ASSERT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  }
}

TEST(GroupRpc, AnIdleFollowerLearnsThatItsLeaderStopped) {
  auto leader =
      std::make_unique<Leader>(LeaderGroup::Options{.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 5});
  FollowerThread follower(FollowerOptionsOf(leader->address(), 1, 2));
  ASSERT_TRUE(leader->group().WaitForRanks(kPatience).ok());
  follower.AwaitStarted();
  leader->group().Stop();
  EXPECT_EQ(follower.Join(), absl::UnavailableError("the leader has stopped"));
}

TEST(GroupRpc, AFollowerWaitsForTheNextLeaderWhenItMeetsOneOnItsWayOut) {
  const std::string address = NewSocketAddress();
  const LeaderGroup::Options options{.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 5};
  auto old_leader = std::make_unique<Leader>(options, address);
  {
    // A follower that joins and goes: that leader's epoch is over.
    FollowerGroupOptions short_options = FollowerOptionsOf(address, 1, 2);
    short_options.join_timeout = std::chrono::milliseconds(200);
    EXPECT_FALSE(FollowerGroup::Join(short_options).ok());
    old_leader->AwaitBroken();
  }
  FollowerThread follower(FollowerOptionsOf(address, 1, 2));
  old_leader.reset();
  Leader leader(options, address);
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  leader.group().communicator().Abort("enough");
  EXPECT_EQ(follower.Join(), absl::UnavailableError("enough"));
}

// A backend whose step tells that it has begun and hangs until it is let go.
class HangingBackend final : public StepBackend {
 public:
  HangingBackend(std::promise<void>& begun, std::shared_future<void> let_go)
      : begun_(begun), let_go_(std::move(let_go)) {}
  int depth() const override { return 0; }
  absl::Status Submit(const StepPlan&) override {
    begun_.set_value();
    let_go_.wait();
    return absl::UnavailableError("was let go");
  }
  absl::StatusOr<StepResult> Collect() override { return StepResult{}; }

 private:
  std::promise<void>& begun_;
  const std::shared_future<void> let_go_;
};

TEST(GroupRpc, AFollowerStuckInAStepWhenTheEpochEndsIsReported) {
  Leader leader({.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 5});
  std::promise<void> begun;
  std::promise<void> let_go;
  FollowerGroupOptions options = FollowerOptionsOf(leader.address(), 1, 2);
  std::string reason;
  options.on_stuck = [&](const std::string& why) {
    reason = why;
    let_go.set_value();
  };
  std::thread thread([&] {
    EXPECT_FALSE(RunFollowerRank(options, {}, [&](Communicator&, int64_t) {
                   return std::make_unique<HangingBackend>(begun, let_go.get_future().share());
                 }).ok());
  });
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  SummingBackend local(leader.group().communicator(), 0);
  GroupBackend backend(local, leader.group().communicator());
  ASSERT_TRUE(backend.Submit(PlanOf(1, 1)).ok());
  begun.get_future().wait();
  leader.group().Stop();
  thread.join();
  EXPECT_EQ(reason, "the leader is lost: the leader has stopped");
}

TEST(GroupRpc, AFollowerWhoseBackendCanNotBeMadeEndsTheEpoch) {
  Leader leader({.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 5});
  std::thread thread([&] {
    EXPECT_EQ(RunFollowerRank(FollowerOptionsOf(leader.address(), 1, 2), {},
                              [](Communicator&, int64_t) -> absl::StatusOr<std::unique_ptr<StepBackend>> {
                                return absl::ResourceExhaustedError("no memory for 5 blocks");
                              }),
              absl::ResourceExhaustedError("no memory for 5 blocks"));
  });
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  thread.join();
  leader.AwaitBroken();
  float value = 0;
  EXPECT_EQ(leader.group().communicator().AllReduceSum(&value, 1),
            absl::UnavailableError("rank 1 failed: no memory for 5 blocks"));
}

// What the leader says to a stream with one message.
grpc::Status SayTo(const std::string& address, const v1::FollowerMessage& message) {
  const auto stub = v1::Group::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  auto stream = stub->Join(&context);
  stream->Write(message);
  v1::LeaderMessage answer;
  while (stream->Read(&answer)) {
  }
  return stream->Finish();
}

TEST(GroupRpc, AFollowerThatIsToldToEndAsksTheLeaderToDrain) {
  std::promise<int> leaving_rank;
  Leader leader({.world_size = 3, .numerics_id = "aa", .num_kv_blocks_max = 10, .on_leaving = [&](int rank) {
                   leaving_rank.set_value(rank);
                 }});
  std::atomic<bool> leaving{false};
  FollowerGroupOptions options = FollowerOptionsOf(leader.address(), 2, 3);
  options.leaving = &leaving;
  FollowerThread one(FollowerOptionsOf(leader.address(), 1, 3));
  FollowerThread two(options);
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  SummingBackend local(leader.group().communicator(), 0);
  GroupBackend backend(local, leader.group().communicator());
  two.AwaitStarted();
  leaving = true;
  EXPECT_EQ(leaving_rank.get_future().get(), 2);
  // It goes on until it is stopped.
  ASSERT_TRUE(backend.Submit(PlanOf(1, 3)).ok());
  ASSERT_TRUE(backend.Collect().ok());
  leader.group().ExpectEnd();
  ASSERT_TRUE(backend.Stop().ok());
  EXPECT_TRUE(one.Join().ok());
  EXPECT_TRUE(two.Join().ok());
  leader.group().Stop();
}

TEST(GroupRpc, AStepOfTheLeaderThatDoesNotEndBreaksTheGroup) {
  StepProgress progress;
  Leader leader({.world_size = 1,
                 .numerics_id = "aa",
                 .num_kv_blocks_max = 10,
                 .step_timeout = std::chrono::milliseconds(300),
                 .progress = &progress});
  ASSERT_TRUE(leader.group().WaitForRanks(kPatience).ok());
  progress.Began(StepId(4));
  EXPECT_EQ(leader.AwaitBroken(), "rank 0 is lost: in step 4 for more than 300 ms");
}

TEST(GroupRpc, HostileStreamsAreEndedWithAReason) {
  Leader leader({.world_size = 2, .numerics_id = "aa", .num_kv_blocks_max = 5});
  v1::FollowerMessage message;
  EXPECT_EQ(SayTo(leader.address(), message).error_message(), "the first message is no hello");
  message.mutable_progress()->set_last_step(3);
  EXPECT_EQ(SayTo(leader.address(), message).error_message(), "the first message is no hello");
  message.mutable_hello()->set_rank(0xffffffff);
  message.mutable_hello()->set_world_size(2);
  EXPECT_EQ(SayTo(leader.address(), message).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  message.mutable_hello()->set_rank(1);
  message.mutable_hello()->set_numerics_id(std::string(1 << 20, 'x'));
  EXPECT_EQ(SayTo(leader.address(), message).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_TRUE(leader.group().status().ok());
}

}  // namespace
}  // namespace outrider
