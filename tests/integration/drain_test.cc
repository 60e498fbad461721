// SIGTERM of each process alone: it takes nothing new, finishes or hands over what runs, and exits 0. A second SIGTERM
// ends it within a second. Also: what happens to a follower whose leader goes.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/generate_client.h"
#include "tests/integration/cluster_fixture.h"
#include "tests/integration/process_fixture.h"

namespace outrider {
namespace {

constexpr int kEndOfEpoch = 75;

int ExitCode(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

// A router and groups that the test starts and ends one by one.
class Parts {
 public:
  Parts() {
    static int last = 0;
    folder_ = absl::StrCat(RuntimeFolder(), "/", ++last, "-");
    router_ = std::make_unique<Process>(
        std::vector<std::string>{"router", "--grpc-port=0", "--metrics-port=0", "--http-port=0",
                                 "--address-file=" + folder_ + "router", "--replay-wait-ms=30000"});
    Await("the router listens", [&] { return !AddressIn(folder_ + "router", "grpc").empty(); });
    grpc_ = AddressIn(folder_ + "router", "grpc");
    metrics_ = AddressIn(folder_ + "router", "metrics");
  }

  std::unique_ptr<Process> StartRank(const std::string& group, int rank, int world_size,
                                     std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"target",
                                     "--model=" + SmallModelPath(),
                                     "--group-id=" + group,
                                     absl::StrCat("--tensor-parallel-size=", world_size),
                                     absl::StrCat("--rank=", rank),
                                     "--host=unix:" + Socket(group, rank),
                                     "--threads=1",
                                     "--max-model-len=512",
                                     "--address-file=" + Socket(group, rank) + ".address"};
    args.push_back(rank == 0 ? "--router-address=" + grpc_ : "--leader-address=unix:" + Socket(group, 0));
    args.insert(args.end(), more.begin(), more.end());
    return std::make_unique<Process>(args);
  }
  std::unique_ptr<Process> StartDraft() {
    return std::make_unique<Process>(std::vector<std::string>{
        "draft", "--model=" + SmallModelPath(), "--host=unix:" + folder_ + "draft", "--threads=1",
        "--router-address=" + grpc_, "--max-model-len=512", "--address-file=" + folder_ + "draft.address"});
  }
  void AwaitServing(int num_groups) {
    Await("groups serve", [&] { return MetricSum(metrics_, "outrider_groups_serving") == num_groups; });
  }
  void AwaitDraftWorkers(int count) {
    Await("draft workers are registered", [&] { return MetricSum(metrics_, "outrider_draft_workers") == count; });
  }

  // A stream of many tokens in a thread of its own.
  class Stream {
   public:
    Stream(const std::string& address, int num_tokens) {
      v1::GenerateRequest request = TestRequest(1, /*greedy=*/false, num_tokens);
      thread_ = std::thread([this, address, request] {
        RunRequests(
            {.address = address}, {request}, [this](int, int, const std::string&) { started_ = true; },
            [this](int, const RequestOutcome& outcome) { outcome_ = outcome; })
            .IgnoreError();
        ended_ = true;
      });
    }
    ~Stream() {
      if (thread_.joinable()) thread_.join();
    }
    bool started() const { return started_; }
    bool ended() const { return ended_; }
    const RequestOutcome& Join() {
      thread_.join();
      return outcome_;
    }

   private:
    std::atomic<bool> started_{false};
    std::atomic<bool> ended_{false};
    RequestOutcome outcome_;
    std::thread thread_;
  };
  std::unique_ptr<Stream> Open(int num_tokens) {
    auto stream = std::make_unique<Stream>(grpc_, num_tokens);
    Await("the stream begins", [&] { return stream->started(); });
    return stream;
  }
  std::vector<int32_t> Undisturbed(int num_tokens) {
    auto stream = Open(num_tokens);
    const RequestOutcome& outcome = stream->Join();
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.message();
    return outcome.choices.at(0).output_token_ids;
  }

  Process& router() { return *router_; }
  const std::string& metrics() const { return metrics_; }

 private:
  std::string Socket(const std::string& group, int rank) const { return absl::StrCat(folder_, group, "-", rank); }

  std::string folder_;
  std::unique_ptr<Process> router_;
  std::string grpc_;
  std::string metrics_;
};

constexpr int kManyTokens = 400;

// Signals again and again (two at once count as one) until the process ends, which is within a second.
int EndByForce(Process& process) {
  const auto began = std::chrono::steady_clock::now();
  Await("a process ends by force", [&] {
    process.Signal(SIGTERM);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return !process.Running();
  });
  const auto ended_after = std::chrono::steady_clock::now() - began;
  EXPECT_LT(ended_after, std::chrono::seconds(1));
  std::printf("ended %.2f s after the second signal\n", std::chrono::duration<double>(ended_after).count());
  return process.Wait();
}

TEST(Drain, AGroupFinishesItsStreamsAndExitsZero) {
  Parts parts;
  const auto group = parts.StartRank("group-0", 0, 1);
  parts.AwaitServing(1);
  auto stream = parts.Open(kManyTokens);
  group->Signal(SIGTERM);
  const RequestOutcome& outcome = stream->Join();
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.message();
  EXPECT_EQ(outcome.choices.at(0).output_token_ids.size(), size_t{kManyTokens});
  EXPECT_EQ(ExitCode(group->Wait()), 0);
}

TEST(Drain, AGroupHandsOverWhatDoesNotFinishInTimeAndNobodySeesIt) {
  Parts parts;
  const auto first = parts.StartRank("group-0", 0, 1, {"--drain-timeout-ms=50"});
  parts.AwaitServing(1);
  const std::vector<int32_t> expected = parts.Undisturbed(kManyTokens);
  auto stream = parts.Open(kManyTokens);
  const auto second = parts.StartRank("group-1", 0, 1);
  first->Signal(SIGTERM);
  EXPECT_EQ(ExitCode(first->Wait()), 0);
  const RequestOutcome& outcome = stream->Join();
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.message();
  EXPECT_EQ(outcome.choices.at(0).output_token_ids, expected);
  EXPECT_TRUE(second->Running());
}

TEST(Drain, TellingAFollowerDrainsItsWholeGroup) {
  Parts parts;
  const auto leader = parts.StartRank("group-0", 0, 2);
  const auto follower = parts.StartRank("group-0", 1, 2);
  parts.AwaitServing(1);
  auto stream = parts.Open(kManyTokens);
  follower->Signal(SIGTERM);
  const RequestOutcome& outcome = stream->Join();
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.message();
  EXPECT_EQ(ExitCode(leader->Wait()), 0);
  EXPECT_EQ(ExitCode(follower->Wait()), 0);
}

TEST(Drain, ADraftWorkerLeavesItsGroupsAndExitsZero) {
  Parts parts;
  const auto group = parts.StartRank("group-0", 0, 1);
  const auto draft = parts.StartDraft();
  parts.AwaitServing(1);
  parts.AwaitDraftWorkers(1);
  auto stream = parts.Open(kManyTokens);
  draft->Signal(SIGTERM);
  EXPECT_EQ(ExitCode(draft->Wait()), 0);
  EXPECT_TRUE(stream->Join().status.ok());
}

TEST(Drain, ASecondSignalEndsAnyProcessAtOnce) {
  Parts parts;
  const auto leader = parts.StartRank("group-0", 0, 2);
  const auto follower = parts.StartRank("group-0", 1, 2);
  parts.AwaitServing(1);
  auto stream = parts.Open(kManyTokens);
  leader->Signal(SIGTERM);
  Await("it drains", [&] { return MetricSum(parts.metrics(), "outrider_groups_serving") == 0 || !leader->Running(); });
  if (!stream->ended()) {
    const int status = EndByForce(*leader);
    // It may just have ended in order.
    EXPECT_TRUE(ExitCode(status) == 130 || ExitCode(status) == 0) << status;
    // A follower without its leader ends too, with the code of an ended epoch.
    const int follower_code = ExitCode(follower->Wait());
    EXPECT_TRUE(follower_code == kEndOfEpoch || follower_code == 0) << follower_code;
  }
  const int router_code = ExitCode(EndByForce(parts.router()));
  EXPECT_TRUE(router_code == 130 || router_code == 0) << router_code;
}

TEST(Follower, EndsWithTheCodeOfAnEndedEpochWhenItsLeaderIsKilledOrStopped) {
  Parts parts;
  for (const int signal : {SIGKILL, SIGSTOP}) {
    const std::string group = absl::StrCat("group-", signal);
    const auto leader = parts.StartRank(group, 0, 2);
    const auto follower = parts.StartRank(group, 1, 2);
    parts.AwaitServing(1);
    leader->Signal(signal);
    EXPECT_EQ(ExitCode(follower->Wait()), kEndOfEpoch);
    if (signal == SIGSTOP) {
      // Back from the dead, it finds its epoch over.
      leader->Signal(SIGCONT);
      EXPECT_EQ(ExitCode(leader->Wait()), kEndOfEpoch);
    }
    Await("the router has missed it", [&] { return MetricSum(parts.metrics(), "outrider_groups_serving") == 0; });
  }
}

TEST(Settings, AnUnknownFlagOfServeIsNamed) {
  // The message goes to the log; the code says that the command line was wrong.
  Process serve({"serve", "--nope"});
  EXPECT_EQ(ExitCode(serve.Wait()), 2);
}

}  // namespace
}  // namespace outrider
