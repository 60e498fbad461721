// Processes that are stopped for longer than their leases and then go on, while others have taken their places: a rank,
// a whole group of one rank and of two, a draft worker. What the woken ones say is refused, and ids are those of the
// undisturbed run.
//
// Started one by one: under `serve` the supervisor kills what has stood still for 2.5 s, and nothing wakes up.

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/cluster_fixture.h"
#include "tests/integration/processes.h"
#include "tests/integration/streams.h"

namespace outrider {
namespace {

constexpr int kNumStreams = 16;
constexpr int kMaxTokens = 160;
constexpr std::chrono::seconds kAsleep(31);

std::vector<v1::GenerateRequest> Requests(bool draft) {
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < kNumStreams; ++i) {
    requests.push_back(TestRequest(i, /*greedy=*/i % 2 == 0, kMaxTokens));
    requests.back().set_draft(draft);
    requests.back().set_lookahead(draft ? 4 : 0);
  }
  return requests;
}

int64_t NumDrafted(const std::vector<StreamOutcome>& outcomes) {
  int64_t num_tokens = 0;
  for (const StreamOutcome& outcome : outcomes) {
    if (outcome.finished.has_value()) num_tokens += outcome.finished->usage().draft_tokens();
  }
  return num_tokens;
}

// Streams under way in a thread of their own: processes are ended with the thread that started them.
class Load {
 public:
  Load(const Processes& cluster, bool draft)
      : outcomes_(std::async(std::launch::async, [this, address = cluster.grpc_address(), draft] {
          return RunStreams(
              address, Requests(draft), [this](int64_t total) { num_tokens_ = total; }, 180);
        })) {}
  void AwaitTokens(int64_t count) {
    Await("streams are under way", [&] { return num_tokens_ >= count; });
  }
  int64_t num_tokens() const { return num_tokens_; }
  std::vector<StreamOutcome> Finish() { return outcomes_.get(); }

 private:
  std::atomic<int64_t> num_tokens_{0};
  std::future<std::vector<StreamOutcome>> outcomes_;
};

void Stop(const Process& process) {
  process.Signal(SIGSTOP);
  Await("it is stopped", [&] { return StateOf(process.pid()) == 'T'; });
}

void Wake(const Process& process) {
  ASSERT_EQ(StateOf(process.pid()), 'T') << "it has slept all the time";
  process.Signal(SIGCONT);
  Await("it goes on", [&] { return StateOf(process.pid()) != 'T'; });
}

TEST(StoppedProcesses, ThatGoOnAfterTheirLeasesRanOutAreRefused) {
  Processes ranks, wholes, groups, drafts;
  ranks.StartGroup("a", 1, /*num_ranks=*/2);
  wholes.StartGroup("e", 1, /*num_ranks=*/2);
  groups.StartGroup("b");
  drafts.StartGroup("c");
  drafts.StartDraftWorker("d");
  const std::vector<Processes*> clusters = {&ranks, &wholes, &groups, &drafts};
  for (Processes* cluster : clusters) ASSERT_TRUE(cluster->AwaitGroups(1));
  const auto expected_of_ranks = Ids(RunStreams(ranks.grpc_address(), Requests(false)));
  const auto expected = Ids(RunStreams(groups.grpc_address(), Requests(false)));
  Await("the draft worker drafts", [&] { return NumDrafted(RunStreams(drafts.grpc_address(), Requests(true))) > 0; });

  // All are struck in mid-stream.
  Load on_ranks(ranks, false), on_wholes(wholes, false), on_groups(groups, false), on_drafts(drafts, true);
  constexpr int64_t kStrikeAt = kNumStreams * 2;
  on_ranks.AwaitTokens(kStrikeAt);
  Stop(ranks.group("a/1"));
  on_wholes.AwaitTokens(kStrikeAt);
  for (const char* rank : {"e", "e/1"}) Stop(wholes.group(rank));
  on_groups.AwaitTokens(kStrikeAt);
  Stop(groups.group("b"));
  on_drafts.AwaitTokens(kStrikeAt);
  Stop(drafts.group("d"));
  const auto asleep_since = std::chrono::steady_clock::now();
  EXPECT_LT(on_ranks.num_tokens(), kNumStreams * kMaxTokens);
  EXPECT_LT(on_wholes.num_tokens(), kNumStreams * kMaxTokens);
  EXPECT_LT(on_groups.num_tokens(), kNumStreams * kMaxTokens);

  // A rank that stands still costs its group, which ends; its own lease and those of the others run out.
  EXPECT_EQ(ExitCode(ranks.group("a").Wait()), 75);
  for (Processes* cluster : {&wholes, &groups}) {
    Await("the group's lease ran out", [&] { return cluster->RouterMetric("outrider_groups") == 0; });
  }
  Await("the draft worker's lease ran out", [&] { return drafts.RouterMetric("outrider_draft_workers") == 0; });
  // Its group has ended the stream to it: nothing that it will say on it finds anybody.
  EXPECT_EQ(drafts.GroupMetric("c", "outrider_draft_connections_lost_total"), 1);
  const Processes::Past rank = ranks.Take("a/1"), group = groups.Take("b"), draft = drafts.Take("d");
  const Processes::Past leader = wholes.Take("e"), follower = wholes.Take("e/1");
  ranks.StartGroup("a", 1, /*num_ranks=*/2);
  wholes.StartGroup("e", 1, /*num_ranks=*/2);
  groups.StartGroup("b");
  drafts.StartDraftWorker("d");
  for (Processes* cluster : clusters) ASSERT_TRUE(cluster->AwaitGroups(1));
  Await("the draft worker's successor is known", [&] { return drafts.RouterMetric("outrider_draft_workers") == 1; });
  EXPECT_EQ(Ids(on_ranks.Finish()), expected_of_ranks);
  EXPECT_EQ(Ids(on_wholes.Finish()), expected_of_ranks);
  EXPECT_EQ(Ids(on_groups.Finish()), expected);
  EXPECT_EQ(Ids(on_drafts.Finish()), expected);
  Await("the draft worker's successor drafts",
        [&] { return NumDrafted(RunStreams(drafts.grpc_address(), Requests(true))) > 0; });

  std::this_thread::sleep_until(asleep_since + kAsleep);
  for (Processes* cluster : {&wholes, &groups}) {
    EXPECT_EQ(cluster->RouterMetric("outrider_stale_events_total{reason=\"fenced\"}"), 0);
    EXPECT_EQ(cluster->RouterMetric("outrider_heartbeats_refused_total"), 0);
  }
  EXPECT_EQ(drafts.RouterMetric("outrider_heartbeats_refused_total"), 0);
  Load ranks_again(ranks, false), wholes_again(wholes, false), groups_again(groups, false), drafts_again(drafts, true);
  ranks_again.AwaitTokens(kNumStreams);
  wholes_again.AwaitTokens(kNumStreams);
  groups_again.AwaitTokens(kNumStreams);
  drafts_again.AwaitTokens(kNumStreams);
  const double num_links = drafts.GroupMetric("c", "outrider_draft_connections_total");
  for (const Processes::Past* past : {&rank, &leader, &follower, &group, &draft}) Wake(*past->process);

    // The group goes on with streams that others have finished long ago. A sanitizer's slow steps let it hear first
    // that it is a past one; then it has no more to say.
#ifdef OUTRIDER_SANITIZED
  constexpr bool kMayHearFirst = true;
#else
  constexpr bool kMayHearFirst = false;
#endif
  Await("its tokens are refused", [&] {
    return groups.RouterMetric("outrider_stale_events_total{reason=\"fenced\"}") > 0 ||
           (kMayHearFirst && group.Metric("outrider_sequences_running") == 0);
  });
  Await("its heartbeats are refused", [&] { return groups.RouterMetric("outrider_heartbeats_refused_total") > 0; });
  Await("it frees what it ran", [&] {
    return group.Metric("outrider_sequences_running") == 0 && group.Metric("outrider_kv_cache_used_ratio") == 0;
  });
  Await("the draft worker's heartbeats are refused",
        [&] { return drafts.RouterMetric("outrider_heartbeats_refused_total") > 0; });
  Await("it forgets what it drafted for", [&] { return draft.Metric("outrider_drafter_sequences") == 0; });
  EXPECT_EQ(drafts.GroupMetric("c", "outrider_draft_connections_total"), num_links) << "nobody draws on it again";
  // The ranks of a whole group that slept have each heard nothing of the other: they end their epoch, or find that its
  // place is taken and free what they ran.
  Await("the woken ranks are of no more use", [&] {
    const bool refused = wholes.RouterMetric("outrider_heartbeats_refused_total") > 0 ||
                         wholes.RouterMetric("outrider_stale_events_total{reason=\"fenced\"}") > 0;
    if (!leader.process->Running() && !follower.process->Running()) return true;
    return refused && leader.process->Running() && leader.Metric("outrider_sequences_running") == 0 &&
           leader.Metric("outrider_kv_cache_used_ratio") == 0;
  });
  for (const Processes::Past* past : {&leader, &follower}) {
    if (past->process->Running()) continue;
    EXPECT_EQ(ExitCode(past->process->Wait()), 75);
  }
  std::printf("of the woken group of two ranks %d run on; %.0f of its events and %.0f of its heartbeats are refused\n",
              leader.process->Running() + follower.process->Running(),
              wholes.RouterMetric("outrider_stale_events_total{reason=\"fenced\"}"),
              wholes.RouterMetric("outrider_heartbeats_refused_total"));
  // The rank has nobody to follow.
  const int rank_end = ExitCode(rank.process->Wait());
  EXPECT_NE(rank_end, 0);
  EXPECT_LT(rank_end, 128) << "it crashed";
  std::printf("the woken rank exits with %d; %.0f events and %.0f heartbeats of the woken group are refused\n",
              rank_end, groups.RouterMetric("outrider_stale_events_total{reason=\"fenced\"}"),
              groups.RouterMetric("outrider_heartbeats_refused_total"));
  EXPECT_EQ(Ids(ranks_again.Finish()), expected_of_ranks);
  EXPECT_EQ(Ids(wholes_again.Finish()), expected_of_ranks);
  EXPECT_EQ(Ids(groups_again.Finish()), expected);
  EXPECT_EQ(Ids(drafts_again.Finish()), expected);
  EXPECT_EQ(Ids(RunStreams(groups.grpc_address(), Requests(false))), expected);
}

}  // namespace
}  // namespace outrider
