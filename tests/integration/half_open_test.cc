// Ways that are lost without a word between workers, as by a cable that is pulled: a group's to its draft worker and a
// worker's to its router lead through a proxy that swallows what either side says and closes nothing. Each end gives
// the way up by itself, frees what it held for the other, and comes back by a new one.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "router/testing/swallowing_proxy.h"
#include "tests/integration/cluster_fixture.h"
#include "tests/integration/processes.h"
#include "tests/integration/streams.h"

namespace outrider {
namespace {

constexpr int kNumStreams = 8;
constexpr int kMaxTokens = 200;

std::vector<v1::GenerateRequest> Requests(bool draft) {
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < kNumStreams; ++i) {
    requests.push_back(TestRequest(i, /*greedy=*/i % 2 == 0, kMaxTokens));
    requests.back().set_draft(draft);
    requests.back().set_lookahead(draft ? 4 : 0);
  }
  return requests;
}

int PortOf(const std::string& address) {
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port)) << address;
  return port;
}

// A process of the cluster with a way of its own to another, by TCP.
class Part {
 public:
  Part(const std::string& kind, const std::string& name, std::vector<std::string> args)
      : address_file_(absl::StrCat(RuntimeFolder(), "/", name)) {
    args.insert(args.begin(),
                {kind, absl::StrCat("--model=", SmallModelPath()), "--host=127.0.0.1", "--threads=1",
                 "--max-model-len=512", "--metrics-port=0", absl::StrCat("--address-file=", address_file_)});
    process_ = std::make_unique<Process>(args);
    Await("it listens", [&] { return !AddressIn(address_file_, "grpc").empty(); });
  }
  int port() const { return PortOf(AddressIn(address_file_, "grpc")); }
  double Metric(const std::string& prefix) const { return MetricSum(AddressIn(address_file_, "metrics"), prefix); }

 private:
  const std::string address_file_;
  std::unique_ptr<Process> process_;
};

TEST(HalfOpenWay, ToADraftWorkerIsGivenUpByBothEndsAndFoundAgain) {
  Processes cluster;
  const Part draft("draft", "draft", {"--worker-id=d", "--router-address=", "--grpc-port=0"});
  router::SwallowingProxy proxy(draft.port());
  const Part group("target", "group",
                   {"--group-id=a", absl::StrCat("--router-address=", cluster.grpc_address()), "--grpc-port=0",
                    "--max-sequences=32", absl::StrCat("--draft-addresses=", proxy.address())});
  ASSERT_TRUE(cluster.AwaitGroups(1));
  const auto expected = Ids(RunStreams(cluster.grpc_address(), Requests(false)));
  Await("it drafts", [&] {
    EXPECT_EQ(Ids(RunStreams(cluster.grpc_address(), Requests(true))), expected);
    return draft.Metric("outrider_drafter_proposals_total") > 0;
  });
  const double num_opened = group.Metric("outrider_draft_connections_total");
  ASSERT_EQ(group.Metric("outrider_draft_connections_lost_total"), 0);

  // In mid-stream, while the draft worker holds sequences: on a busy machine there may be moments, or whole runs, when
  // drafts do not pay.
  bool struck = false;
  Await("the way is lost with sequences on it", [&] {
    const auto outcomes = RunStreams(cluster.grpc_address(), Requests(true), [&](int64_t total) {
      if (struck || total < kNumStreams * 8 || draft.Metric("outrider_drafter_sequences") == 0) return;
      struck = true;
      proxy.Swallow();
    });
    EXPECT_EQ(Ids(outcomes), expected);
    return struck;
  });
  // The group hears nothing for 1.5 s, and connects anew.
  Await("the group gives its end up", [&] { return group.Metric("outrider_draft_connections_lost_total") == 1; });
  EXPECT_GT(proxy.num_bytes_swallowed(), 0);
  Await("it is connected again", [&] { return group.Metric("outrider_draft_connections_total") > num_opened; });
  const double num_proposals = draft.Metric("outrider_drafter_proposals_total");
  Await("the draft worker drafts again", [&] {
    EXPECT_EQ(Ids(RunStreams(cluster.grpc_address(), Requests(true))), expected);
    return draft.Metric("outrider_drafter_proposals_total") > num_proposals;
  });
  // It was never told that the old way is lost: its keepalive finds that, in 20 + 10 s, before its lease of 60 s.
  const auto began = std::chrono::steady_clock::now();
  Await("the draft worker gives its end up", [&] { return draft.Metric("outrider_drafter_sequences") == 0; });
  std::printf("the draft worker's end was given up after %.0f s more\n",
              std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
}

TEST(HalfOpenWay, OfHeartbeatsIsGivenUpByTheWorkerWhichRegistersAgain) {
  Processes cluster({"--worker-timeout-ms=1500"});
  router::SwallowingProxy proxy(PortOf(cluster.grpc_address()));
  const Part group("target", "other-group",
                   {"--group-id=a", absl::StrCat("--router-address=", proxy.address()), "--grpc-port=0"});
  ASSERT_TRUE(cluster.AwaitGroups(1));
  const int num_connections = proxy.num_connections();
  proxy.Swallow();
  Await("the router misses the group", [&] { return cluster.RouterMetric("outrider_groups_serving") == 0; });
  EXPECT_GT(proxy.num_bytes_swallowed(), 0);
  EXPECT_EQ(proxy.num_connections(), num_connections) << "a lease ran out, no connection did";
  // By a connection of its own: the old one passes nothing on any more.
  const auto began = std::chrono::steady_clock::now();
  ASSERT_TRUE(cluster.AwaitGroups(1));
  EXPECT_GT(proxy.num_connections(), num_connections);
  std::printf("registered again after %.0f s more\n",
              std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
  const auto outcomes = RunStreams(cluster.grpc_address(), {TestRequest(0, true, 8)});
  EXPECT_EQ(outcomes[0].code, 0) << outcomes[0].message;
}

}  // namespace
}  // namespace outrider
