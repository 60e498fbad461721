// Faults of groups and routers on real processes, under 16 streams: no client sees an error while an equal group lives
// or returns, ids, text and logprobs equal the undisturbed run, and the ledger has no remainder.

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/termination.h"  // kSameSignalBound
#include "tests/integration/cluster_fixture.h"
#include "tests/integration/processes.h"
#include "tests/integration/streams.h"

namespace outrider {
namespace {

constexpr int kNumStreams = 16;
constexpr int kMaxTokens = 160;
// Faults strike once so many tokens have come of all streams.
constexpr int64_t kStrikeAt = kNumStreams * kMaxTokens / 4;

std::vector<v1::GenerateRequest> Requests(int max_tokens = kMaxTokens) {
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < kNumStreams; ++i) {
    requests.push_back(TestRequest(i, /*greedy=*/i % 2 == 0, max_tokens));
    if (i % 4 == 0) requests.back().set_num_logprobs(0);
  }
  return requests;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Calls `strike` once, when enough tokens have come.
std::function<void(int64_t)> StrikeOnce(std::function<void()> strike, int64_t at = kStrikeAt) {
  return [strike = std::move(strike), at, done = false](int64_t total) mutable {
    if (done || total < at) return;
    done = true;
    strike();
  };
}

void ExpectUndisturbed(const std::vector<StreamOutcome>& outcomes, const std::vector<StreamOutcome>& expected) {
  ASSERT_EQ(outcomes.size(), expected.size());
  for (size_t i = 0; i < outcomes.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("stream ", i, ", ", outcomes[i].request_id));
    EXPECT_EQ(outcomes[i].code, 0) << outcomes[i].message;
    EXPECT_EQ(outcomes[i].token_ids, expected[i].token_ids);
    EXPECT_EQ(outcomes[i].text, expected[i].text);
    EXPECT_EQ(outcomes[i].logprobs, expected[i].logprobs);
    ASSERT_TRUE(outcomes[i].finished.has_value());
    EXPECT_EQ(outcomes[i].finished->usage().output_tokens(), expected[i].token_ids.size());
    EXPECT_EQ(outcomes[i].finished->usage().prompt_tokens(), expected[i].finished->usage().prompt_tokens());
    EXPECT_EQ(outcomes[i].finished->finish_reason(), expected[i].finished->finish_reason());
  }
}

// The clients of several runs against one router.
std::vector<StreamOutcome> Together(std::vector<StreamOutcome> all, const std::vector<StreamOutcome>& more) {
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

void ExpectLedger(const std::string& request_log, const std::vector<StreamOutcome>& clients) {
  // The last lines are written a moment after the clients know.
  const auto bound = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  std::vector<std::string> wrong;
  do {
    wrong = CheckLedger(ReadFile(request_log), clients);
  } while (!wrong.empty() && std::chrono::steady_clock::now() < bound);
  EXPECT_TRUE(wrong.empty()) << absl::StrJoin(wrong, "\n");
}

TEST(Ledger, FindsEachWayOfNotAddingUp) {
  const auto client = [](const std::string& id, int code, int num_ends) {
    StreamOutcome outcome;
    outcome.request_id = id;
    outcome.code = code;
    outcome.num_ends = num_ends;
    return outcome;
  };
  const auto accepted = [](const std::string& id) {
    return absl::StrCat("{\"event\":\"accepted\",\"request_id\":\"", id, "\"}\n");
  };
  const auto ended = [](const std::string& id, const std::string& outcome) {
    return absl::StrCat("{\"event\":\"ended\",\"request_id\":\"", id, "\",\"outcome\":\"", outcome, "\"}\n");
  };
  const std::string good = accepted("a") + accepted("b") + ended("a", "complete") + ended("b", "retriable");
  const std::vector<StreamOutcome> clients = {client("a", 0, 1), client("b", 14, 0), client("refused", 8, 0)};
  EXPECT_TRUE(CheckLedger(good, clients).empty());
  for (const std::string& log : {accepted("a") + good, good + ended("a", "complete"), good + accepted("c"),
                                 good + ended("c", "complete"), good + accepted("c") + ended("c", "complete"),
                                 good + "torn", accepted("a") + accepted("b") + ended("a", "complete"),
                                 accepted("a") + accepted("b") + ended("a", "permanent") + ended("b", "retriable"),
                                 accepted("a") + accepted("b") + ended("a", "lost") + ended("b", "retriable")}) {
    EXPECT_FALSE(CheckLedger(log, clients).empty()) << log;
  }
  EXPECT_FALSE(CheckLedger(good, {client("a", 0, 2), client("b", 14, 0)}).empty());
  EXPECT_FALSE(CheckLedger(good, {client("a", 0, 1), client("b", 14, 1)}).empty());
  EXPECT_FALSE(CheckLedger(good, {client("a", 0, 1), client("b", 14, 0), client("c", 0, 1)}).empty());
  EXPECT_FALSE(CheckLedger(good, {client("a", 0, 1), client("b", 14, 0), client("", 0, 1)}).empty());
  // One that found no router; if a router has it all the same, its id did not come.
  EXPECT_TRUE(CheckLedger(good, {client("a", 0, 1), client("b", 14, 0), client("", 14, 0)}).empty());
  EXPECT_FALSE(CheckLedger(good, {client("a", 0, 1), client("", 14, 0)}).empty());
  // Clients that left, one of them before it had an id.
  const auto left = [&](const std::string& id) {
    StreamOutcome outcome = client(id, 1, 0);
    outcome.left = true;
    return outcome;
  };
  const auto whole = [&](const std::string& id, const std::string& outcome) {
    return accepted(id) + ended(id, outcome);
  };
  EXPECT_TRUE(CheckLedger(whole("a", "cancelled") + whole("b", "complete"), {left("a"), left("b")}).empty());
  EXPECT_TRUE(CheckLedger(whole("a", "cancelled"), {left(""), left("")}).empty());
  EXPECT_FALSE(CheckLedger(whole("a", "permanent"), {left("a")}).empty());
  EXPECT_FALSE(CheckLedger(whole("a", "deadline"), {left("")}).empty());
  EXPECT_FALSE(CheckLedger(whole("a", "cancelled") + whole("b", "cancelled"), {left("")}).empty());
}

// `serve` with its supervisor: what is killed comes back by itself.
class KilledByForce : public ::testing::Test {
 protected:
  void SetUp() override {
    log_ = absl::StrCat(::testing::TempDir(), "/requests-", ::getpid(), ".jsonl");
    std::remove(log_.c_str());
    ::setenv("OUTRIDER_REQUEST_LOG", log_.c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("OUTRIDER_REQUEST_LOG");
    std::remove(log_.c_str());
  }
  // Runs all streams, and again while every process that matches `words` is killed.
  void Run(const ClusterOptions& options, const std::vector<std::string>& words, size_t num_killed) {
    const auto cluster = StartCluster(options);
    ASSERT_NE(cluster, nullptr);
    const auto expected = RunStreams(cluster->grpc_address(), Requests());
    const auto killed = ChildrenWith(cluster->pid(), words);
    ASSERT_EQ(killed.size(), num_killed);
    const auto outcomes = RunStreams(cluster->grpc_address(), Requests(), StrikeOnce([&] {
                                       for (const pid_t pid : killed) ::kill(pid, SIGKILL);
                                     }));
    ExpectUndisturbed(outcomes, expected);
    for (const pid_t pid : killed) EXPECT_NE(::kill(pid, 0), 0) << "it took no effect";
    EXPECT_GE(MetricSum(cluster->metrics_address(), "outrider_attempts_replayed_total"), 1);
    ExpectLedger(log_, Together(expected, outcomes));
    EXPECT_TRUE(Await(
        "sequences end", [&] { return MetricSum(cluster->metrics_address(), "outrider_sequences_running") == 0; },
        std::chrono::seconds(20)));
    EXPECT_EQ(MetricSum(cluster->metrics_address(), "outrider_kv_cache_used_ratio"), 0);
  }

 private:
  std::string log_;
};

TEST_F(KilledByForce, ARankLosesNoToken) {
  ClusterOptions options = TestCluster();
  options.tensor_parallel_size = 2;
  Run(options, {"target", "--rank=1"}, 1);
}

TEST_F(KilledByForce, AllRanksOfAllGroupsLoseNoToken) {
  ClusterOptions options = TestCluster();
  options.draft_workers = 0;
  options.groups = 2;
  Run(options, {"target"}, 2);
}

TEST(StoppedGroup, IsReplacedAndItsFramesAreRefusedWhenItGoesOn) {
  Processes cluster({"--worker-timeout-ms=1500"});
  cluster.StartGroup("a");
  cluster.StartGroup("b");
  ASSERT_TRUE(cluster.AwaitGroups(2));
  const auto expected = RunStreams(cluster.grpc_address(), Requests());
  const auto outcomes =
      RunStreams(cluster.grpc_address(), Requests(), StrikeOnce([&] { cluster.group("a").Signal(SIGSTOP); }));
  EXPECT_EQ(StateOf(cluster.group("a").pid()), 'T');
  ExpectUndisturbed(outcomes, expected);
  EXPECT_EQ(cluster.RouterMetric("outrider_stale_events_total{reason=\"fenced\"}"), 0);
  cluster.group("a").Signal(SIGCONT);
  EXPECT_TRUE(Await(
      "frames are refused", [&] { return cluster.RouterMetric("outrider_stale_events_total{reason=\"fenced\"}") > 0; },
      std::chrono::seconds(20)));
  // It takes part again, and is none the worse for it.
  ASSERT_TRUE(cluster.AwaitGroups(2));
  ExpectUndisturbed(RunStreams(cluster.grpc_address(), Requests(20)), RunStreams(cluster.grpc_address(), Requests(20)));
  EXPECT_TRUE(Await(
      "sequences of a end", [&] { return cluster.GroupMetric("a", "outrider_sequences_running") == 0; },
      std::chrono::seconds(20)));
  EXPECT_EQ(cluster.GroupMetric("a", "outrider_kv_cache_used_ratio"), 0);
}

TEST(RollingRestart, OfTwoGroupsInTenRoundsCutsNothing) {
  Processes cluster;
  cluster.StartGroup("a");
  cluster.StartGroup("b");
  ASSERT_TRUE(cluster.AwaitGroups(2));
  auto all = RunStreams(cluster.grpc_address(), Requests());
  const auto expected = all;
  for (int round = 0; round < 10; ++round) {
    const std::string group = round % 2 == 0 ? "a" : "b";
    const auto outcomes =
        RunStreams(cluster.grpc_address(), Requests(), StrikeOnce([&] { cluster.group(group).Signal(SIGTERM); }));
    ExpectUndisturbed(outcomes, expected);
    EXPECT_EQ(ExitCode(cluster.group(group).Wait()), 0) << "round " << round;
    all = Together(std::move(all), outcomes);
    cluster.StartGroup(group);
    ASSERT_TRUE(cluster.AwaitGroups(2));
  }
  EXPECT_GT(cluster.RouterMetric("outrider_attempts_handed_over_total"), 0);
  ExpectLedger(cluster.request_log(), all);
}

TEST(RouterKilled, FreesAllThatGroupsRanWithinFiveSeconds) {
  Processes cluster;
  cluster.StartGroup("a");
  ASSERT_TRUE(cluster.AwaitGroups(1));
  double running = -1;
  std::chrono::steady_clock::time_point killed;
  RunStreams(cluster.grpc_address(), Requests(400),
             StrikeOnce(
                 [&] {
                   running = cluster.GroupMetric("a", "outrider_sequences_running");
                   killed = std::chrono::steady_clock::now();
                   cluster.router().Signal(SIGKILL);
                 },
                 kNumStreams * 4));
  EXPECT_GT(running, 0);
  EXPECT_EQ(ExitCode(cluster.router().Wait()), 128 + SIGKILL);
  EXPECT_TRUE(Await(
      "everything is freed",
      [&] {
        return cluster.GroupMetric("a", "outrider_sequences_running") == 0 &&
               cluster.GroupMetric("a", "outrider_sequences_waiting") == 0 &&
               cluster.GroupMetric("a", "outrider_kv_cache_used_ratio") == 0;
      },
      std::chrono::seconds(20)));
  const auto freed_after = std::chrono::steady_clock::now() - killed;
  EXPECT_LT(freed_after, std::chrono::seconds(5));
  std::printf("%.0f sequences ran; all was free %.2f s after the router was killed\n", running,
              std::chrono::duration<double>(freed_after).count());
}

TEST(RouterDrain, FinishesWhatRunsRefusesWhatComesAndExitsWithZero) {
  Processes cluster;
  cluster.StartGroup("a");
  ASSERT_TRUE(cluster.AwaitGroups(1));
  const auto expected = RunStreams(cluster.grpc_address(), Requests());
  std::vector<StreamOutcome> late;
  const auto outcomes = RunStreams(cluster.grpc_address(), Requests(), StrikeOnce([&] {
                                     cluster.router().Signal(SIGTERM);
                                     // It takes a moment to hear of it; then nobody is admitted any more.
                                     do {
                                       late = RunStreams(cluster.grpc_address(), {TestRequest(0, true, 1)});
                                     } while (late[0].code == 0);
                                   }));
  ExpectUndisturbed(outcomes, expected);
  ASSERT_EQ(late.size(), 1);
  EXPECT_EQ(late[0].code, 14) << late[0].message;
  EXPECT_NE(late[0].retry_pushback_ms, "");
  EXPECT_EQ(ExitCode(cluster.router().Wait()), 0);
}

TEST(RouterDrain, EndsWhatIsLeftAfterItsTimeAndExitsWithZero) {
  Processes cluster({"--drain-timeout-ms=200"});
  cluster.StartGroup("a");
  ASSERT_TRUE(cluster.AwaitGroups(1));
  const auto outcomes = RunStreams(cluster.grpc_address(), Requests(450),
                                   StrikeOnce([&] { cluster.router().Signal(SIGTERM); }, kNumStreams * 4));
  EXPECT_EQ(ExitCode(cluster.router().Wait()), 0);
  int num_cut = 0;
  for (const StreamOutcome& outcome : outcomes) {
    if (outcome.code == 0) continue;
    ++num_cut;
    EXPECT_EQ(outcome.code, 14) << outcome.message;
    EXPECT_NE(outcome.retry_pushback_ms, "");
  }
  EXPECT_GT(num_cut, 0);
  ExpectLedger(cluster.request_log(), outcomes);
}

TEST(RouterDrain, EndsAtOnceAtTheSecondSignal) {
  Processes cluster;
  cluster.StartGroup("a");
  ASSERT_TRUE(cluster.AwaitGroups(1));
  std::chrono::steady_clock::time_point first, end;
  RunStreams(cluster.grpc_address(), Requests(450),
             StrikeOnce(
                 [&] {
                   first = std::chrono::steady_clock::now();
                   cluster.router().Signal(SIGTERM);
                   // Blocked signals of a kind are one until the first is taken.
                   std::vector<StreamOutcome> late;
                   do {
                     late = RunStreams(cluster.grpc_address(), {TestRequest(0, true, 1)});
                   } while (late[0].code == 0);
                   // Those that come too soon after the first count as the first.
                   Await("the router ends by force", [&] {
                     cluster.router().Signal(SIGTERM);
                     return !cluster.router().Running();
                   });
                   end = std::chrono::steady_clock::now();
                 },
                 kNumStreams * 4));
  EXPECT_EQ(ExitCode(cluster.router().Wait()), 130);
  EXPECT_GE(end - first, kSameSignalBound);
  EXPECT_LT(end - first, kSameSignalBound + std::chrono::seconds(1));
  std::printf("ended %.2f s after the first signal; what comes within %.1f s of it is the same\n",
              std::chrono::duration<double>(end - first).count(),
              std::chrono::duration<double>(kSameSignalBound).count());
}

}  // namespace
}  // namespace outrider
