#include "cli/cluster_view.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace outrider {
namespace {

// A supervisor's page after `k` looks' worth of work.
MetricsPageView Page(int k) {
  MetricsPageView view;
  view.Add(absl::StrCat(
      "outrider_process_up{process=\"router\"} 1\noutrider_process_up{process=\"group-0/0\"} 0\n"
      "outrider_unit_restarts_total{process=\"serve\",unit=\"group-0\"} 3\n"
      "outrider_groups{process=\"router\"} 2\noutrider_groups_serving{process=\"router\"} 1\n"
      "outrider_draft_workers{process=\"router\"} 1\noutrider_requests_running{process=\"router\"} 4\n"
      "outrider_requests_total{process=\"router\",outcome=\"ok\"} ",
      6 * k, "\noutrider_requests_total{process=\"router\",outcome=\"unavailable\"} ", 2 * k,
      "\noutrider_output_tokens_total{process=\"router\"} ", 200 * k,
      "\noutrider_committed_tokens_total{process=\"group-0/0\",group=\"group-0\",rank=\"0\"} ", 180 * k,
      "\noutrider_time_to_first_token_seconds_bucket{process=\"router\",le=\"0.1\"} ", 5 * k,
      "\noutrider_time_to_first_token_seconds_bucket{process=\"router\",le=\"+Inf\"} ", 5 * k,
      "\noutrider_group_sequences_running{process=\"router\",group=\"group-0\"} 9\n"
      "outrider_sequences_running{process=\"group-0/0\",group=\"group-0\",rank=\"0\"} 3\n"
      "outrider_group_sequences_running{process=\"router\",group=\"group-1\"} 5\n"
      "outrider_group_draft_rounds_total{process=\"router\",group=\"group-1\"} ",
      8 * k, "\noutrider_group_draft_tokens_accepted_total{process=\"router\",group=\"group-1\",position=\"1\"} ",
      4 * k,
      "\noutrider_sequences_running{process=\"leader:9101\"} "
      "7\noutrider_committed_tokens_total{process=\"leader:9101\"} ",
      30 * k,
      "\n"
      "outrider_kv_cache_used_ratio{process=\"group-0/0\",group=\"group-0\",rank=\"0\"} 0.95\n"
      "outrider_draft_rounds_total{process=\"group-0/0\",group=\"group-0\",rank=\"0\"} ",
      10 * k, "\noutrider_draft_rounds_hidden_total{process=\"group-0/0\",group=\"group-0\",rank=\"0\"} ", 5 * k,
      "\noutrider_draft_tokens_total{process=\"group-0/0\",group=\"group-0\",rank=\"0\",position=\"1\"} ", 40 * k,
      "\noutrider_draft_tokens_accepted_total{process=\"group-0/0\",group=\"group-0\",rank=\"0\",position=\"1\"} ",
      30 * k, "\noutrider_step_seconds_sum{process=\"group-0/0\",group=\"group-0\",rank=\"0\",kind=\"verify\"} ",
      0.5 * k, "\noutrider_step_seconds_count{process=\"group-0/0\",group=\"group-0\",rank=\"0\",kind=\"verify\"} ",
      100 * k,
      "\noutrider_drafter_sequences{process=\"draft-0\"} 2\noutrider_drafter_tokens_total{process=\"draft-0\"} ",
      60 * k, "\n"));
  return view;
}

TEST(ClusterView, RatesAreOfTheTimeBetweenTheLooks) {
  const ClusterView view = ViewCluster(Page(1), Page(3), 2);
  EXPECT_EQ(view.requests_per_s, 8);
  EXPECT_EQ(view.failed_per_s, 2);
  EXPECT_EQ(view.output_tokens_per_s, 200);
  EXPECT_EQ(view.requests_running, 4);
  EXPECT_EQ(view.groups_serving, 1);
  EXPECT_NEAR(view.ttft_ms_p50, 50, 1e-9);
  EXPECT_TRUE(std::isnan(view.itl_ms_p50));
  ASSERT_EQ(view.group_list.size(), 3u);
  const GroupRow& group = view.group_list[0];
  EXPECT_EQ(group.running, 3);  // its own word goes before the router's
  EXPECT_EQ(group.tokens_per_s, 180);
  EXPECT_EQ(group.acceptance_rate, 0.75);
  EXPECT_EQ(group.acceptance_length, 4);
  EXPECT_EQ(group.hidden_ratio, 0.5);
  EXPECT_NEAR(group.step_ms, 5, 1e-9);
  EXPECT_EQ(view.group_list[1].running, 5);  // the router's word alone
  EXPECT_EQ(view.group_list[1].acceptance_length, 1.5);
  EXPECT_TRUE(std::isnan(view.group_list[1].tokens_per_s));
  EXPECT_EQ(view.group_list[2].name, "leader:9101");  // asked itself, and by no group's name
  EXPECT_EQ(view.group_list[2].running, 7);
  EXPECT_EQ(view.group_list[2].tokens_per_s, 30);
  ASSERT_EQ(view.draft_list.size(), 1u);
  EXPECT_EQ(view.draft_list[0].tokens_per_s, 60);
  ASSERT_EQ(view.processes.size(), 2u);
  EXPECT_FALSE(view.processes[0].up);
  EXPECT_EQ(view.processes[0].restarts, 3);
}

TEST(ClusterView, ACounterThatStartedAnewCountsFromZero) {
  const ClusterView view = ViewCluster(Page(5), Page(1), 1);
  EXPECT_EQ(view.requests_per_s, 8);
  EXPECT_EQ(view.output_tokens_per_s, 200);
}

TEST(ClusterView, TextFitsTheTerminal) {
  const ClusterView view = ViewCluster(Page(1), Page(3), 2);
  for (const int width : {1, 20, 40, 80, 120}) {
    for (const absl::string_view line : absl::StrSplit(ClusterText(view, "title", width, 0, false), '\n')) {
      EXPECT_LE(line.size(), static_cast<size_t>(width));
    }
  }
  const std::string text = ClusterText(view, "title", 80, 0, false);
  EXPECT_NE(text.find("\nGROUP             RUN  WAIT  KV%   TOK/S  STEP ms  ACC%    LEN  HIDDEN%  PREEMPT\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("\ngroup-0             3     -   95     180     5.00    75   4.00       50      0.0\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("DOWN"), std::string::npos);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(ClusterText(view, "title", 80, 0, true).find('\x1b'), std::string::npos);
  const std::vector<std::string> lines = absl::StrSplit(ClusterText(view, "t", 80, 8, false), '\n');
  ASSERT_EQ(lines.size(), 9u);  // the last is empty
  EXPECT_EQ(lines[7].find("... "), 0u) << lines[7];
}

TEST(ClusterView, JsonHasEveryFigureAndNullForWhatIsNotKnown) {
  const auto json = nlohmann::json::parse(ClusterJson(ViewCluster(Page(1), Page(3), 2)));
  EXPECT_EQ(json["requests_per_s"], 8);
  EXPECT_TRUE(json["itl_ms_p50"].is_null());
  EXPECT_EQ(json["group_list"][0]["acceptance_rate"], 0.75);
  EXPECT_EQ(json["processes"][0]["up"], false);
  const auto nothing = nlohmann::json::parse(ClusterJson(ViewCluster({}, {}, 1)));
  EXPECT_TRUE(nothing["groups"].is_null());
  EXPECT_EQ(nothing["requests_per_s"], 0);
}

}  // namespace
}  // namespace outrider
