#include "cli/metrics_page.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace outrider {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(MetricsPage, ReadsNamesLabelsAndValues) {
  MetricsPageView view;
  view.Add("# HELP a x\n# TYPE a counter\na{g=\"0\",r=\"q\\\"u\\\\o\\n\"} 1.5\na{g=\"1\"} 2 1700000000\nb 3\nc +Inf\n",
           {{"process", "p"}, {"g", "other"}});
  EXPECT_EQ(view.Sum("a"), 3.5);
  EXPECT_EQ(view.Sum("a", {{"g", "0"}}), 1.5);
  EXPECT_EQ(view.Sum("a", {{"r", "q\"u\\o\n"}}), 1.5);
  EXPECT_EQ(view.Sum("a", {{"r", ""}}), 2);  // that have none
  EXPECT_EQ(view.Sum("b", {{"process", "p"}, {"g", "other"}}), 3);
  EXPECT_EQ(view.Sum("c"), kInfinity);
  EXPECT_EQ(view.Sum("d", {}, -1), -1);
  EXPECT_EQ(view.Values("a", "g"), (std::vector<std::string>{"0", "1"}));
  EXPECT_TRUE(view.Has("b"));
  EXPECT_FALSE(view.Has("b", {{"process", "q"}}));
}

TEST(MetricsPage, LeavesOutLinesThatAreNone) {
  MetricsPageView view;
  view.Add("a{g=\"0\" 1\na{g=0} 1\na{g=\"0\n{} 1\na\na x\n\n}{\na{g=\"\\");
  EXPECT_FALSE(view.Has("a"));
}

// By listing every observation: a bucket's are taken as spread evenly over it.
TEST(MetricsPage, QuantilesAreThoseOfPromql) {
  const std::map<double, double> before = {{1, 10}, {2, 10}, {4, 10}, {kInfinity, 10}};
  const std::map<double, double> after = {{1, 12}, {2, 18}, {4, 20}, {kInfinity, 20}};  // 2, 6 and 2 more
  EXPECT_NEAR(HistogramQuantile(before, after, 0.1), 0.5, 1e-12);
  EXPECT_NEAR(HistogramQuantile(before, after, 0.5), 1.5, 1e-12);
  EXPECT_NEAR(HistogramQuantile(before, after, 0.9), 3, 1e-12);
  EXPECT_NEAR(HistogramQuantile(before, after, 1), 4, 1e-12);
  EXPECT_NEAR(HistogramQuantile({}, {{1, 0}, {kInfinity, 5}}, 0.5), 1, 1e-12);  // beyond all bounds
  EXPECT_TRUE(std::isnan(HistogramQuantile(after, after, 0.5)));
  EXPECT_TRUE(std::isnan(HistogramQuantile({}, {}, 0.5)));
}

TEST(MetricsPage, BucketsAreSummedOverSeries) {
  MetricsPageView view;
  view.Add("h_bucket{le=\"1\",g=\"0\"} 1\nh_bucket{le=\"1\",g=\"1\"} 2\nh_bucket{le=\"+Inf\",g=\"0\"} 4\n");
  EXPECT_EQ(view.Buckets("h"), (std::map<double, double>{{1, 3}, {kInfinity, 4}}));
  EXPECT_EQ(view.Buckets("h", {{"g", "1"}}), (std::map<double, double>{{1, 2}}));
}

}  // namespace
}  // namespace outrider
