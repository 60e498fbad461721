// A group whose ranks are on several hosts: here, in networks of their own, so that they can not share memory.

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/cluster_fixture.h"
#include "tests/integration/processes.h"
#include "tests/integration/streams.h"

namespace outrider {
namespace {

constexpr int kNumStreams = 6;
constexpr int kMaxTokens = 128;

std::vector<v1::GenerateRequest> Requests() {
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < kNumStreams; ++i) {
    requests.push_back(TestRequest(i, /*greedy=*/i % 2 == 0, kMaxTokens));
    requests.back().set_num_logprobs(i % 3);
  }
  return requests;
}

std::string NetworkOf(pid_t pid) { return std::filesystem::read_symlink(absl::StrCat("/proc/", pid, "/ns/net")); }

TEST(SeveralHosts, GiveTheIdsOfOneAndOutliveALostRank) {
  if (!CanStartApart()) GTEST_SKIP() << "no process may be given a network of its own here";
  Processes one, several;
  one.StartGroup("a", 1, /*num_ranks=*/2);
  several.StartGroup("a", 1, /*num_ranks=*/2, /*ranks_apart=*/true);
  ASSERT_TRUE(one.AwaitGroups(1));
  ASSERT_TRUE(several.AwaitGroups(1));
  EXPECT_NE(NetworkOf(several.group("a/1").pid()), NetworkOf(several.group("a").pid()));
  const auto timed = [](const Processes& cluster) {
    const auto began = std::chrono::steady_clock::now();
    const auto ids = Ids(RunStreams(cluster.grpc_address(), Requests()));
    std::printf("%d streams of %d tokens took %.2f s\n", kNumStreams, kMaxTokens,
                std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    return ids;
  };
  const auto expected = timed(one);
  EXPECT_EQ(timed(several), expected);

  // A rank dies in mid-stream: the group ends, its successor goes on with the same ids.
  std::atomic<int64_t> num_tokens{0};
  std::vector<StreamOutcome> outcomes;
  std::thread clients(
      [&] { outcomes = RunStreams(several.grpc_address(), Requests(), [&](int64_t total) { num_tokens = total; }); });
  Await("streams run", [&] { return num_tokens >= kNumStreams * 4; });
  several.group("a/1").Signal(SIGKILL);
  EXPECT_EQ(ExitCode(several.group("a").Wait()), 75);
  EXPECT_EQ(ExitCode(several.group("a/1").Wait()), 128 + SIGKILL);
  EXPECT_LT(num_tokens, kNumStreams * kMaxTokens) << "nothing was left to lose";
  several.StartGroup("a", 1, /*num_ranks=*/2, /*ranks_apart=*/true);
  clients.join();
  EXPECT_EQ(Ids(outcomes), expected);
}

}  // namespace
}  // namespace outrider
