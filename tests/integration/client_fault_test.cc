// Clients that go away, clients that stop reading, and a full disk for the router's ledger, on real processes: nothing
// of them is left behind, and nobody else sees any of it. Every fault proves that it took effect.

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <future>
#include <iostream>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "router/testing/swallowing_proxy.h"
#include "tests/integration/cluster_fixture.h"
#include "tests/integration/processes.h"
#include "tests/integration/streams.h"

namespace outrider {
namespace {

constexpr int kNumStreams = 16;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<v1::GenerateRequest> Requests(int max_tokens) {
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < kNumStreams; ++i) requests.push_back(TestRequest(i, /*greedy=*/i % 2 == 0, max_tokens));
  return requests;
}

// Nothing is queued, nothing runs, and no block is held for a live sequence.
void ExpectNothingLeft(const Processes& cluster, const std::vector<std::string>& groups) {
  Await("the router has nothing left", [&] {
    return cluster.RouterMetric("outrider_requests_waiting") == 0 &&
           cluster.RouterMetric("outrider_requests_running") == 0;
  });
  for (const std::string& group : groups) {
    Await(absl::StrCat("group ", group, " has nothing left"), [&] {
      return cluster.GroupMetric(group, "outrider_sequences_running") == 0 &&
             cluster.GroupMetric(group, "outrider_sequences_waiting") == 0 &&
             cluster.GroupMetric(group, "outrider_kv_cache_used_ratio") == 0;
    });
  }
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

int64_t ResidentBytes(pid_t pid) {
  const std::vector<std::string> fields = absl::StrSplit(ReadFile(absl::StrCat("/proc/", pid, "/statm")), ' ');
  int64_t num_pages = 0;
  EXPECT_TRUE(fields.size() > 1 && absl::SimpleAtoi(fields[1], &num_pages));
  return num_pages * ::sysconf(_SC_PAGESIZE);
}

uint64_t Seed() {
  const char* text = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 10) : std::random_device{}();
  std::cout << "seed " << seed << std::endl;
  return seed;
}

TEST(Clients, AThousandThatDisconnectAtRandomTokensLeaveNothingBehind) {
  constexpr int kNumClients = 1000, kAtOnce = 100, kMaxTokens = 64, kLeaveMax = 24, kCutClients = 200;
  Processes cluster;
  const std::vector<std::string> groups = {"a", "b"};
  for (const std::string& group : groups) cluster.StartGroup(group);
  ASSERT_TRUE(cluster.AwaitGroups(2));
  const auto expected = RunStreams(cluster.grpc_address(), Requests(kMaxTokens));
  std::vector<StreamOutcome> all = expected;
  std::mt19937_64 random(Seed());
  std::vector<Leave> leaves(kNumClients);
  for (Leave& leave : leaves) leave.after_tokens = static_cast<int>(random() % (kLeaveMax + 2)) - 1;

  // Most cancel their calls. The last ones lose their connections, several at a time, at whatever token they are at.
  std::vector<StreamOutcome> gone(kNumClients);
  const auto stub =
      v1::Inference::NewStub(grpc::CreateChannel(cluster.grpc_address(), grpc::InsecureChannelCredentials()));
  std::atomic<int> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kAtOnce; ++t) {
    threads.emplace_back([&] {
      for (int i = next++; i < kNumClients - kCutClients; i = next++) {
        gone[i] = RunStream(*stub, TestRequest(i % 64, i % 2 == 0, kMaxTokens), leaves[i]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const int router_port = [&] {
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(cluster.grpc_address().substr(cluster.grpc_address().rfind(':') + 1), &port));
    return port;
  }();
  for (int first = kNumClients - kCutClients; first < kNumClients; first += kAtOnce) {
    auto proxy = std::make_unique<router::SwallowingProxy>(router_port);
    const auto cut_stub =
        v1::Inference::NewStub(grpc::CreateChannel(proxy->address(), grpc::InsecureChannelCredentials()));
    std::atomic<int> num_tokens{0};
    std::vector<std::thread> clients;
    for (int i = first; i < first + kAtOnce; ++i) {
      clients.emplace_back([&, i] {
        gone[i] = RunStream(*cut_stub, TestRequest(i % 64, i % 2 == 0, kMaxTokens), {},
                            [&](int more) { num_tokens += more; });
        gone[i].left = gone[i].code != 0;
      });
    }
    Await("tokens come", [&] { return num_tokens >= kAtOnce * leaves[first].after_tokens / 2 + 1; });
    proxy.reset();
    for (std::thread& client : clients) client.join();
  }

  int num_before_first = 0, num_amid = 0, num_cut = 0;
  for (int i = 0; i < kNumClients; ++i) {
    if (!gone[i].left) continue;
    ++(gone[i].token_ids.empty() ? num_before_first : num_amid);
    num_cut += i >= kNumClients - kCutClients;
  }
  std::printf("%d left before the first token, %d in mid-stream; %d of them by their connection\n", num_before_first,
              num_amid, num_cut);
  EXPECT_GT(num_before_first, 10);
  EXPECT_GT(num_amid, kNumClients / 2);
  EXPECT_GT(num_cut, kCutClients / 2);
  EXPECT_GT(cluster.RouterMetric("outrider_requests_total{outcome=\"cancelled\""), kNumClients / 2);
  ExpectNothingLeft(cluster, groups);
  all.insert(all.end(), gone.begin(), gone.end());
  const auto after = RunStreams(cluster.grpc_address(), Requests(kMaxTokens));
  EXPECT_EQ(Ids(after), Ids(expected));
  all.insert(all.end(), after.begin(), after.end());
  ExpectLedger(cluster.request_log(), all);
}

// A client that starts a call and does not read it. What comes fills HTTP/2's window, 64 KiB, and then waits.
class StuckClient {
 public:
  StuckClient(const std::string& address, const v1::GenerateRequest& request, int deadline_s) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // the window stays as it is
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::Inference::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(deadline_s));
    reader_ = stub_->Generate(&context_, request);
  }
  // Reads what is left to read.
  StreamOutcome Finish() {
    StreamOutcome outcome;
    v1::GenerateResponse response;
    while (reader_->Read(&response)) outcome.num_ends += response.has_finished();
    const grpc::Status status = reader_->Finish();
    outcome.code = status.error_code();
    outcome.message = status.error_message();
    return outcome;
  }

 private:
  std::unique_ptr<v1::Inference::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
};

TEST(Clients, OneThatStopsReadingIsEndedByItsDeadlineOrItsBoundAndSlowsNobody) {
  constexpr int kMaxTokens = 96, kBufferBytes = 512 << 10, kDeadlineS = 8;
  Processes cluster({absl::StrCat("--max-stream-buffer-bytes=", kBufferBytes)});
  cluster.StartGroup("a");
  ASSERT_TRUE(cluster.AwaitGroups(1));
  const auto expected = RunStreams(cluster.grpc_address(), Requests(kMaxTokens));
  const int64_t resident = ResidentBytes(cluster.router().pid());
  // About 300 bytes a token. Two choices are more than HTTP/2's window and what the transport takes beyond it (64 KiB
  // each), so they wait in the router until the deadline; eight are more than its bound too.
  v1::GenerateRequest wide = TestRequest(0, /*greedy=*/false, 450);
  wide.set_num_logprobs(20);
  wide.set_n(2);
  v1::GenerateRequest huge = wide;
  huge.set_n(8);
  StuckClient cut(cluster.grpc_address(), huge, /*deadline_s=*/60);
  StuckClient late(cluster.grpc_address(), wide, kDeadlineS);
  // Others go on beside them.
  EXPECT_EQ(Ids(RunStreams(cluster.grpc_address(), Requests(kMaxTokens))), Ids(expected));
  Await("one is cut at its bound", [&] { return cluster.RouterMetric("outrider_streams_cut_total") == 1; });
  Await("one ends by its deadline",
        [&] { return cluster.RouterMetric("outrider_requests_total{outcome=\"deadline_exceeded\"") == 1; });
  // The one that was cut holds nothing of its group any more, though its client has not read yet.
  Await("the group is free", [&] {
    return cluster.GroupMetric("a", "outrider_sequences_running") == 0 &&
           cluster.GroupMetric("a", "outrider_sequences_waiting") == 0 &&
           cluster.GroupMetric("a", "outrider_kv_cache_used_ratio") == 0;
  });
#ifdef OUTRIDER_SANITIZED
  constexpr int64_t kKeptByAllocator = 256 << 20;  // AddressSanitizer holds freed memory back, so much of it
#else
  constexpr int64_t kKeptByAllocator = 0;
#endif
  EXPECT_LT(ResidentBytes(cluster.router().pid()) - resident, (32 << 20) + kKeptByAllocator);
  const StreamOutcome cut_outcome = cut.Finish();
  EXPECT_EQ(cut_outcome.code, grpc::StatusCode::RESOURCE_EXHAUSTED) << cut_outcome.message;
  EXPECT_EQ(cut_outcome.num_ends, 0);
  EXPECT_EQ(late.Finish().code, grpc::StatusCode::DEADLINE_EXCEEDED);
  ExpectNothingLeft(cluster, {"a"});
}

TEST(RequestLog, OnAFullDiskIsToldOnceAndServingGoesOn) {
  // The router's log, to look at.
  const std::string log_path = absl::StrCat(RuntimeFolder(), "/router.log");
  const int log = ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  ASSERT_GE(log, 0);
  const int saved = ::dup(STDERR_FILENO);
  ::dup2(log, STDERR_FILENO);
  Processes cluster({"--request-log=/dev/full"});
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
  ::close(log);
  cluster.StartGroup("a");
  ASSERT_TRUE(cluster.AwaitGroups(1));
  const auto first = RunStreams(cluster.grpc_address(), Requests(24));
  EXPECT_EQ(Ids(RunStreams(cluster.grpc_address(), Requests(24))), Ids(first));
  Await("each lost line is counted",
        [&] { return cluster.RouterMetric("outrider_request_log_lines_dropped_total") == 4 * kNumStreams; });
  const std::string told = ReadFile(log_path);
  const std::vector<std::string> parts =
      absl::StrSplit(told, "request_log can not be written: No space left on device");
  EXPECT_EQ(parts.size(), 2) << told;
  ExpectNothingLeft(cluster, {"a"});
}

}  // namespace
}  // namespace outrider
