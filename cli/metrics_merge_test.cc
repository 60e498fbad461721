#include "cli/metrics_merge.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

TEST(MergeMetrics, GivesEachSeriesTheLabelsOfItsProcessAndSaysHeadersOnce) {
  const std::string text =
      "# HELP outrider_a_total A.\n# TYPE outrider_a_total counter\noutrider_a_total 3\n"
      "# HELP outrider_s Seconds.\n# TYPE outrider_s histogram\n"
      "outrider_s_bucket{le=\"1\"} 2\noutrider_s_bucket{le=\"+Inf\"} 2\noutrider_s_sum 1.5\noutrider_s_count 2\n";
  const std::string merged = MergeMetrics(
      {{{{"process", "group-0/0"}, {"rank", "0"}}, text}, {{{"process", "group-0/1"}, {"rank", "1"}}, text}});
  EXPECT_EQ(merged,
            "# HELP outrider_a_total A.\n# TYPE outrider_a_total counter\n"
            "outrider_a_total{process=\"group-0/0\",rank=\"0\"} 3\n"
            "outrider_a_total{process=\"group-0/1\",rank=\"1\"} 3\n"
            "# HELP outrider_s Seconds.\n# TYPE outrider_s histogram\n"
            "outrider_s_bucket{process=\"group-0/0\",rank=\"0\",le=\"1\"} 2\n"
            "outrider_s_bucket{process=\"group-0/0\",rank=\"0\",le=\"+Inf\"} 2\n"
            "outrider_s_sum{process=\"group-0/0\",rank=\"0\"} 1.5\n"
            "outrider_s_count{process=\"group-0/0\",rank=\"0\"} 2\n"
            "outrider_s_bucket{process=\"group-0/1\",rank=\"1\",le=\"1\"} 2\n"
            "outrider_s_bucket{process=\"group-0/1\",rank=\"1\",le=\"+Inf\"} 2\n"
            "outrider_s_sum{process=\"group-0/1\",rank=\"1\"} 1.5\n"
            "outrider_s_count{process=\"group-0/1\",rank=\"1\"} 2\n");
}

TEST(MergeMetrics, KeepsALabelThatASeriesHasItself) {
  EXPECT_EQ(MergeMetrics({{{{"process", "router"}, {"group", "none"}}, "x{group=\"group-1\"} 1\n"}}),
            "x{process=\"router\",group=\"group-1\"} 1\n");
  EXPECT_EQ(MergeMetrics({{{{"group", "g"}}, "x{my_group=\"a,b\\\"} c\"} 1\n"}}),
            "x{group=\"g\",my_group=\"a,b\\\"} c\"} 1\n");
}

TEST(MergeMetrics, EscapesLabelValues) {
  EXPECT_EQ(MergeMetrics({{{{"process", "a\"b\\c\nd"}}, "x 1\n"}}), "x{process=\"a\\\"b\\\\c\\nd\"} 1\n");
}

TEST(MergeMetrics, LeavesOutWhatIsNoSeriesOrOfAnotherType) {
  EXPECT_EQ(MergeMetrics({{{}, "garbage\n{} 1\nx{a=\"b 1\n# a remark\n\nok 1"}}), "ok 1\n");
  EXPECT_EQ(MergeMetrics({{{{"p", "1"}}, "# TYPE x counter\nx 1\n"}, {{{"p", "2"}}, "# TYPE x gauge\nx 2\n"}}),
            "# TYPE x counter\nx{p=\"1\"} 1\n");
  EXPECT_EQ(MergeMetrics({}), "");
}

}  // namespace
}  // namespace outrider
