// Faults on real processes under load: whatever is killed, stopped or full, ids are those of the undisturbed run. Every
// fault proves that it took effect.

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <mutex>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/integration/cluster_fixture.h"
#include "tests/integration/process_fixture.h"
#include "tests/integration/streams.h"
#include "worker/model/testing/test_device.h"

namespace outrider {
namespace {

constexpr int kNumStreams = 16;
constexpr int kMaxTokens = 48;

std::vector<v1::GenerateRequest> Requests(bool draft) {
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < kNumStreams; ++i) {
    v1::GenerateRequest request = TestRequest(i, /*greedy=*/i % 2 == 0, kMaxTokens);
    request.set_draft(draft);
    request.set_lookahead(draft ? 4 : 0);
    requests.push_back(request);
  }
  return requests;
}

std::vector<std::vector<int32_t>> Ids(const std::vector<RequestOutcome>& outcomes) {
  std::vector<std::vector<int32_t>> ids;
  for (const RequestOutcome& outcome : outcomes) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.message();
    ids.push_back(outcome.choices.empty() ? std::vector<int32_t>() : outcome.choices[0].output_token_ids);
  }
  return ids;
}

// kNumStreams at once, over and over until told to stop; each result is compared with the undisturbed run.
class Load {
 public:
  explicit Load(const ChildCluster& cluster)
      : expected_(Ids(Generate(cluster, Requests(false), kNumStreams))), thread_([this, &cluster] {
          while (!stopped_) {
            const auto outcomes = Generate(cluster, Requests(true), kNumStreams);
            EXPECT_EQ(Ids(outcomes), expected_) << "round " << num_rounds_;
            for (const RequestOutcome& outcome : outcomes) {
              if (!outcome.choices.empty()) num_drafted_ += outcome.choices[0].finished.usage().draft_tokens();
            }
            ++num_rounds_;
          }
        }) {}
  ~Load() { Stop(); }
  void Stop() {
    stopped_ = true;
    if (thread_.joinable()) thread_.join();
  }
  // So many rounds have ended since the start.
  int num_rounds() const { return num_rounds_; }
  int64_t num_drafted() const { return num_drafted_; }
  void AwaitRounds(int more) {
    const int target = num_rounds_ + more;
    Await(
        "streams go on", [&] { return num_rounds_ >= target; }, std::chrono::seconds(60));
  }

 private:
  const std::vector<std::vector<int32_t>> expected_;
  std::atomic<bool> stopped_{false};
  std::atomic<int> num_rounds_{0};
  std::atomic<int64_t> num_drafted_{0};
  std::thread thread_;
};

pid_t OnlyChild(const ChildCluster& cluster, const std::vector<std::string>& words) {
  const auto children = ChildrenWith(cluster.pid(), words);
  EXPECT_EQ(children.size(), 1u);
  return children.empty() ? -1 : children[0];
}

// Waits for another process in the place of `old_pid`.
pid_t AwaitSuccessor(const ChildCluster& cluster, const std::vector<std::string>& words, pid_t old_pid) {
  pid_t now = -1;
  Await("a process is back", [&] {
    const auto children = ChildrenWith(cluster.pid(), words);
    if (children.size() != 1 || children[0] == old_pid) return false;
    now = children[0];
    return true;
  });
  return now;
}

TEST(Faults, KillingTheDraftWorkerEverySecondChangesNothing) {
  ClusterOptions options = TestCluster();
  options.draft_model.clear();  // the draft worker is the test's own
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  Load load(*cluster);
  int num_kills = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < end) {
    const auto next = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    Process worker({"draft", "--model=" + SmallModelPath(), "--worker-id=killed", "--threads=1",
                    "--host=unix:" + RuntimeFolder() + "/killed.sock", "--router-address=" + cluster->grpc_address(),
                    "--max-model-len=512"});
    std::this_thread::sleep_until(next);
    ASSERT_TRUE(worker.Running());
    worker.Signal(SIGKILL);
    const int status = worker.Wait();
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ++num_kills;
  }
  load.AwaitRounds(1);
  load.Stop();
  EXPECT_GE(num_kills, 15);
  EXPECT_GT(load.num_drafted(), 0) << "no draft worker lived long enough to be of use";
  std::printf("%d kills, %d rounds of %d streams, %ld draft tokens\n", num_kills, load.num_rounds(), kNumStreams,
              static_cast<long>(load.num_drafted()));
  EXPECT_TRUE(cluster->Stop());
}

TEST(Faults, AStoppedDraftWorkerCostsNothingAndIsReplaced) {
  const auto cluster = StartCluster(TestCluster());
  ASSERT_NE(cluster, nullptr);
  Load load(*cluster);
  load.AwaitRounds(1);
  const pid_t stopped = OnlyChild(*cluster, {"--worker-id="});
  ::kill(stopped, SIGSTOP);
  Await("it is stopped", [&] { return StateOf(stopped) == 'T'; });
  load.AwaitRounds(1);
  EXPECT_GT(AwaitSuccessor(*cluster, {"--worker-id="}, stopped), 0);
  EXPECT_GE(MetricSum(cluster->metrics_address(), "outrider_process_hangs_total"), 1);
  // The new one is used.
  const int64_t drafted = load.num_drafted();
  Await("the new draft worker drafts", [&] { return load.num_drafted() > drafted; });
  // One that is back before anybody misses it is the same one.
  const pid_t paused = OnlyChild(*cluster, {"--worker-id="});
  for (int i = 0; i < 3; ++i) {
    ::kill(paused, SIGSTOP);
    Await("it is stopped", [&] { return StateOf(paused) == 'T'; });
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    ::kill(paused, SIGCONT);
    Await("it goes on", [&] { return StateOf(paused) != 'T'; });
    load.AwaitRounds(1);
  }
  load.Stop();
  EXPECT_EQ(OnlyChild(*cluster, {"--worker-id="}), paused);
  EXPECT_TRUE(cluster->Stop());
}

TEST(Faults, AStoppedOrKilledRankOfEitherKindIsReplacedAndStreamsGoOn) {
  if (!TestDeviceHas(2)) GTEST_SKIP() << "fewer GPUs than ranks";
  ClusterOptions options = TestCluster();
  options.tensor_parallel_size = 2;
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  Load load(*cluster);
  load.AwaitRounds(1);
  for (const int signal : {SIGSTOP, SIGKILL}) {
    for (const char* rank : {"--rank=1", "--rank=0"}) {
      const pid_t struck = OnlyChild(*cluster, {"target", rank});
      const pid_t peer =
          OnlyChild(*cluster, {"target", std::string_view(rank) == "--rank=0" ? "--rank=1" : "--rank=0"});
      const auto began = std::chrono::steady_clock::now();
      ::kill(struck, signal);
      if (signal == SIGSTOP) {
        Await("it is stopped", [&] {
          const char state = StateOf(struck);
          return state == 'T' || state == '\0';
        });
      }
      const auto seconds = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
      };
      // A group that has lost a rank ends whole: the other one is gone once the loss is seen.
      Await("its group ends", [&] { return ::kill(peer, 0) != 0; });
      const double seen_after = seconds();
      EXPECT_GT(AwaitSuccessor(*cluster, {"target", rank}, struck), 0);
      std::printf("signal %d to %s: its group ended after %.2f s, it was replaced after %.2f s\n", signal, rank,
                  seen_after, seconds());
      load.AwaitRounds(1);
    }
  }
  load.Stop();
  EXPECT_TRUE(cluster->Stop());
}

// Clients of a cluster whose router restarts too: what ends UNAVAILABLE they send again, when they were told to.
class PatientClients {
 public:
  explicit PatientClients(const std::string& address) : expected_(RunStreams(address, Requests(false))) {
    outcomes_ = expected_;
    for (int i = 0; i < kNumStreams; ++i) threads_.emplace_back([this, address, i] { Run(address, i); });
  }
  ~PatientClients() { Stop(); }
  void Stop() {
    stopped_ = true;
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  int num_complete() const { return num_complete_; }
  int num_sent_again() const { return num_sent_again_; }
  // Of all calls so far. REQUIRES: Stop was called.
  const std::vector<StreamOutcome>& outcomes() const { return outcomes_; }

 private:
  void Run(const std::string& address, int index) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub =
        v1::Inference::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    const v1::GenerateRequest request = Requests(true)[index];
    while (!stopped_) {
      const StreamOutcome outcome = RunStream(*stub, request);
      // gRPC itself ends a call CANCELLED that arrives while a server closes: the router never sees it.
      const bool never_arrived = outcome.code == grpc::StatusCode::CANCELLED && outcome.request_id.empty();
      const bool again = (outcome.code == grpc::StatusCode::UNAVAILABLE || never_arrived) && outcome.token_ids.empty();
      if (again) {
        ++num_sent_again_;
        int pushback_ms = 0;
        if (!absl::SimpleAtoi(outcome.retry_pushback_ms, &pushback_ms)) pushback_ms = 20;
        std::this_thread::sleep_for(std::chrono::milliseconds(std::min(pushback_ms, 1000)));
      } else {
        EXPECT_EQ(outcome.code, 0) << outcome.request_id << " after " << outcome.token_ids.size()
                                   << " tokens: " << outcome.message;
        EXPECT_EQ(outcome.token_ids, expected_[index].token_ids) << outcome.request_id;
        EXPECT_EQ(outcome.text, expected_[index].text) << outcome.request_id;
        ++num_complete_;
      }
      const std::lock_guard<std::mutex> lock(mu_);
      outcomes_.push_back(outcome);
    }
  }

  const std::vector<StreamOutcome> expected_;
  std::atomic<bool> stopped_{false};
  std::atomic<int> num_complete_{0};
  std::atomic<int> num_sent_again_{0};
  std::mutex mu_;
  std::vector<StreamOutcome> outcomes_;
  std::vector<std::thread> threads_;
};

TEST(Faults, TenRoundsOfRollingRestartsOfEveryPartLoseNothing) {
  constexpr int kNumRounds = 10;
  const std::string request_log = RuntimeFolder() + "/rolling.jsonl";
  ::setenv("OUTRIDER_REQUEST_LOG", request_log.c_str(), 1);
  ClusterOptions options = TestCluster();
  options.groups = 2;
  const auto cluster = StartCluster(options);
  ::unsetenv("OUTRIDER_REQUEST_LOG");
  ASSERT_NE(cluster, nullptr);
  const std::vector<std::vector<std::string>> parts = {{"draft", "--worker-id="},
                                                       {"target", "--group-id=group-0"},
                                                       {"target", "--group-id=group-1"},
                                                       {"router", "--grpc-port"}};
  PatientClients clients(cluster->grpc_address());
  for (int round = 0; round < kNumRounds; ++round) {
    for (const std::vector<std::string>& part : parts) {
      const pid_t old_pid = OnlyChild(*cluster, part);
      const int num_complete = clients.num_complete();
      ::kill(old_pid, SIGTERM);
      ASSERT_GT(AwaitSuccessor(*cluster, part, old_pid), 0);
      // The next part goes once all serve again and streams have ended.
      Await("all groups serve", [&] { return MetricSum(cluster->metrics_address(), "outrider_groups_serving") == 2; });
      Await("streams go on", [&] { return clients.num_complete() > num_complete + 1; });
    }
  }
  clients.Stop();
  EXPECT_EQ(MetricSum(cluster->metrics_address(), "outrider_process_crashes_total"), 0) << "a part did not exit with 0";
  EXPECT_EQ(MetricSum(cluster->metrics_address(), "outrider_unit_restarts_total"), kNumRounds * parts.size());
  EXPECT_TRUE(cluster->Stop());
  EXPECT_GT(clients.num_sent_again(), 0) << "the router's restarts were not noticed";
  std::ifstream file(request_log);
  std::stringstream log;
  log << file.rdbuf();
  const std::vector<std::string> wrong = CheckLedger(log.str(), clients.outcomes());
  EXPECT_TRUE(wrong.empty()) << absl::StrJoin(wrong, "\n");
  std::printf("%d streams complete, %d times sent again\n", clients.num_complete(), clients.num_sent_again());
}

TEST(Faults, AFullDiskForLogsStopsNothing) {
  const int saved = ::dup(STDERR_FILENO);
  const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  ::dup2(full, STDERR_FILENO);
  auto cluster = StartCluster(TestCluster());
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
  ::close(full);
  ASSERT_NE(cluster, nullptr);
  EXPECT_EQ(Ids(Generate(*cluster, Requests(true), kNumStreams)),
            Ids(Generate(*cluster, Requests(false), kNumStreams)));
  // A draft worker is lost and comes back, which is told to nobody.
  const pid_t killed = OnlyChild(*cluster, {"--worker-id="});
  ::kill(killed, SIGKILL);
  EXPECT_GT(AwaitSuccessor(*cluster, {"--worker-id="}, killed), 0);
  for (const char* process : {"router", "group-0/0", "serve"}) {
    EXPECT_GT(MetricSum(cluster->metrics_address(), absl::StrCat("outrider_log_lines_lost_total{process=\"", process)),
              0)
        << process;
  }
  EXPECT_TRUE(cluster->Stop());
}

TEST(Faults, AProcessThatHangsCostsThePageOfMetricsItsOwnSeries) {
  const auto cluster = StartCluster(TestCluster());
  ASSERT_NE(cluster, nullptr);
  const auto up = [&](const char* process) {
    return MetricSum(cluster->metrics_address(), absl::StrCat("outrider_process_up{process=\"", process, "\"}"));
  };
  for (const char* process : {"router", "group-0/0", "draft-0"}) EXPECT_EQ(up(process), 1) << process;
  EXPECT_GE(MetricSum(cluster->metrics_address(),
                      "outrider_kv_cache_used_ratio{process=\"group-0/0\",group=\"group-0\",rank=\"0\"}"),
            0);
  const pid_t stopped = OnlyChild(*cluster, {"--worker-id="});
  ::kill(stopped, SIGSTOP);
  // The page comes all the same, until the process is replaced and shows itself again.
  Await("it is missed", [&] { return up("draft-0") == 0 && up("group-0/0") == 1; });
  Await("it is back", [&] { return up("draft-0") == 1; });
  EXPECT_TRUE(cluster->Stop());
}

}  // namespace
}  // namespace outrider
