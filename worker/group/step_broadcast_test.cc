#include "worker/group/step_broadcast.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <vector>

#include "worker/group/summing_backend.h"
#include "worker/parallel/broadcast_blob.h"
#include "worker/parallel/loopback_communicator.h"
#include "worker/parallel/single_communicator.h"

namespace outrider {
namespace {

using testing::PlanOf;
using testing::SummingBackend;

// A group of threads: the leader's calls are the test's, followers run until the group ends.
class Group {
 public:
  explicit Group(int world_size, int depth = 0) : communicators_(CreateLoopbackCommunicators(world_size)) {
    for (auto& communicator : communicators_)
      backends_.push_back(std::make_unique<SummingBackend>(*communicator, depth));
    progress_ = std::vector<StepProgress>(world_size);
    statuses_.resize(world_size);
    leader_ = std::make_unique<GroupBackend>(*backends_[0], *communicators_[0]);
  }
  ~Group() {
    if (!followers_.empty()) Join();
  }

  void Start() {
    for (size_t r = 1; r < communicators_.size(); ++r) {
      followers_.emplace_back(
          [this, r] { statuses_[r] = RunFollower(*backends_[r], *communicators_[r], {.progress = &progress_[r]}); });
    }
  }
  // Ends the group if nothing else has.
  void Join() {
    communicators_[0]->Abort("the test is over");
    for (std::thread& follower : followers_) follower.join();
    followers_.clear();
  }

  GroupBackend& leader() { return *leader_; }
  SummingBackend& backend(int rank) { return *backends_[rank]; }
  Communicator& communicator(int rank) { return *communicators_[rank]; }
  const absl::Status& status(int rank) const { return statuses_[rank]; }
  uint64_t last_step(int rank) const { return progress_[rank].Now().last_step; }

 private:
  std::vector<std::unique_ptr<Communicator>> communicators_;
  std::vector<std::unique_ptr<SummingBackend>> backends_;
  std::vector<StepProgress> progress_;
  std::vector<absl::Status> statuses_;
  std::unique_ptr<GroupBackend> leader_;
  std::vector<std::thread> followers_;
};

class GroupSizes : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, GroupSizes, ::testing::Values(1, 2, 3, 4));

TEST_P(GroupSizes, EveryRankRunsEveryPlan) {
  const int world_size = GetParam();
  Group group(world_size);
  group.Start();
  for (uint64_t step = 1; step <= 50; ++step) {
    ASSERT_TRUE(group.leader().Submit(PlanOf(step, static_cast<int>(step % 5))).ok());
    const absl::StatusOr<StepResult> result = group.leader().Collect();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->step, StepId(step));
    ASSERT_EQ(result->spans.size(), step % 5);
    for (const SpanResult& span : result->spans) {
      EXPECT_EQ(span.tokens[0], static_cast<TokenId>(world_size * (span.sequence.value + step)));
    }
  }
  ASSERT_TRUE(group.leader().Stop().ok());
  group.Join();
  for (int r = 1; r < world_size; ++r) {
    EXPECT_TRUE(group.status(r).ok()) << group.status(r);
    EXPECT_EQ(group.last_step(r), 50);
    ASSERT_EQ(group.backend(r).plans.size(), 50);
    EXPECT_EQ(group.backend(r).plans[48].spans.size(), 4);
  }
}

TEST(GroupBackend, OverlapsStepsAndDrainsThem) {
  Group group(3, /*depth=*/1);
  group.Start();
  GroupBackend& leader = group.leader();
  EXPECT_EQ(leader.depth(), 1);
  ASSERT_TRUE(leader.Submit(PlanOf(1, 2)).ok());
  for (uint64_t step = 2; step <= 20; ++step) {
    ASSERT_TRUE(leader.Submit(PlanOf(step, 2)).ok());
    EXPECT_EQ(leader.Collect()->step, StepId(step - 1));
  }
  // Nothing more is submitted: the last is collected alone, and so is a step by itself.
  EXPECT_EQ(leader.Collect()->step, StepId(20));
  ASSERT_TRUE(leader.Submit(PlanOf(21, 1)).ok());
  EXPECT_EQ(leader.Collect()->step, StepId(21));
  ASSERT_TRUE(leader.Stop().ok());
  group.Join();
  for (int r = 1; r < 3; ++r) {
    EXPECT_TRUE(group.status(r).ok()) << group.status(r);
    EXPECT_EQ(group.last_step(r), 21);
  }
}

TEST(GroupBackend, EndsTheEpochWhenARankChoosesOtherTokens) {
  Group group(3);
  group.backend(2).differ_at = StepId(2);
  group.Start();
  ASSERT_TRUE(group.leader().Submit(PlanOf(1, 3)).ok());
  ASSERT_TRUE(group.leader().Collect().ok());
  ASSERT_TRUE(group.leader().Submit(PlanOf(2, 3)).ok());
  const absl::Status status = group.leader().Collect().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(std::string(status.message()).starts_with("step 2: ranks disagree: rank 2 chose other tokens (hash"))
      << status;
  group.Join();
  EXPECT_EQ(group.status(1), status);
  EXPECT_EQ(group.status(2), status);
  EXPECT_EQ(group.last_step(1), 1);
  EXPECT_EQ(group.leader().Submit(PlanOf(3, 1)), status);
}

TEST(GroupBackend, NamesEveryRankThatDiffers) {
  Group group(4);
  group.backend(1).differ_at = StepId(1);
  group.backend(3).differ_at = StepId(1);
  group.Start();
  ASSERT_TRUE(group.leader().Submit(PlanOf(1, 1)).ok());
  const std::string message(group.leader().Collect().status().message());
  EXPECT_NE(message.find("rank 1 chose"), std::string::npos) << message;
  EXPECT_EQ(message.find("rank 2 chose"), std::string::npos) << message;
  EXPECT_NE(message.find("rank 3 chose"), std::string::npos) << message;
}

TEST(GroupBackend, SaysWhyAFollowerFailed) {
  Group group(3);
  group.backend(1).fail_at = StepId(1);
  group.Start();
  ASSERT_TRUE(group.leader().Submit(PlanOf(1, 1)).ok());
  EXPECT_EQ(group.leader().Collect().status(), absl::UnavailableError("rank 1 failed: no memory left"));
  group.Join();
  EXPECT_EQ(group.status(1), absl::ResourceExhaustedError("no memory left"));
  EXPECT_EQ(group.status(2), absl::UnavailableError("rank 1 failed: no memory left"));
}

TEST(GroupBackend, TellsFollowersWhyTheLeaderFailed) {
  Group group(2);
  group.backend(0).fail_at = StepId(1);
  group.Start();
  EXPECT_EQ(group.leader().Submit(PlanOf(1, 1)), absl::ResourceExhaustedError("no memory left"));
  EXPECT_EQ(group.leader().Collect().status(), absl::ResourceExhaustedError("no memory left"));
  group.Join();
  EXPECT_EQ(group.status(1), absl::UnavailableError("rank 0 failed: no memory left"));
}

TEST(GroupBackend, NeedsAStepToCollect) {
  Group group(1);
  EXPECT_EQ(group.leader().Collect().status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(group.leader().Submit(PlanOf(1, 1)).ok());
  EXPECT_EQ(group.leader().Stop().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(GroupBackend, OfOneRankIsTheLocalBackend) {
  SingleCommunicator communicator;
  SummingBackend local(communicator, 0);
  GroupBackend group(local, communicator);
  ASSERT_TRUE(group.Submit(PlanOf(1, 2)).ok());
  EXPECT_EQ(group.Collect()->spans.size(), 2);
  EXPECT_TRUE(group.Stop().ok());
}

// What a follower does about a leader that is not one of ours.
absl::Status FollowBlob(const std::string& bytes) {
  std::vector<std::unique_ptr<Communicator>> communicators = CreateLoopbackCommunicators(2);
  SummingBackend backend(*communicators[1], 0);
  absl::Status status;
  std::thread follower([&] { status = RunFollower(backend, *communicators[1]); });
  std::string blob = bytes;
  EXPECT_TRUE(BroadcastBlob(*communicators[0], &blob, 0).ok());
  follower.join();
  EXPECT_FALSE(communicators[0]->AwaitPeer(1).ok());
  return status;
}

TEST(RunFollower, RefusesWhatIsNoCommand) {
  EXPECT_EQ(FollowBlob(""), absl::InternalError("the leader's command has 0 bytes"));
  EXPECT_EQ(FollowBlob(std::string(8, '\0')), absl::InternalError("the leader's command 0 is unknown"));
  EXPECT_EQ(FollowBlob(std::string("\2\0\0\0\0\0\0\0", 8)),
            absl::InternalError("the leader collects a step that it never sent"));
  EXPECT_EQ(FollowBlob(std::string("\1\0\0\0\7\0\0\0", 8)),
            absl::InternalError("the leader keeps 7 steps ahead, this rank 0"));
  EXPECT_EQ(FollowBlob(std::string("\1\0\0\0\0\0\0\0\377", 9)).code(), absl::StatusCode::kInvalidArgument);
}

TEST(RunFollower, EndsWhenTheLeaderIsGone) {
  std::vector<std::unique_ptr<Communicator>> communicators = CreateLoopbackCommunicators(2);
  SummingBackend backend(*communicators[1], 0);
  absl::Status status;
  std::thread follower([&] { status = RunFollower(backend, *communicators[1]); });
  communicators[0].reset();
  follower.join();
  EXPECT_EQ(status, absl::UnavailableError("rank 0 has left"));
}

}  // namespace
}  // namespace outrider
