#include "base/metrics.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

TEST(MetricsRegistry, ShowsNamesWithPrefixAndLabels) {
  MetricsRegistry registry;
  registry.AddCounter("requests_total", "Requests.", {{"outcome", "ok"}}).Add(3);
  registry.AddGauge("sequences_running", "Sequences.").Set(2);
  registry.AddHistogram("step_seconds", "Steps.", {0.1, 1}).Observe(0.5);
  const std::string text = registry.ToText();
  EXPECT_NE(text.find("outrider_requests_total{outcome=\"ok\"} 3"), std::string::npos) << text;
  EXPECT_NE(text.find("outrider_sequences_running 2"), std::string::npos) << text;
  EXPECT_NE(text.find("outrider_step_seconds_bucket{le=\"1\"} 1"), std::string::npos) << text;
}

TEST(MetricsRegistry, GivesTheSameMetricWhenAskedAgain) {
  MetricsRegistry registry;
  registry.AddCounter("a_total", "A.").Add();
  registry.AddCounter("a_total", "A.").Add();
  EXPECT_EQ(registry.AddCounter("a_total", "A.").value(), 2);
}

TEST(Histogram, CountsAndSums) {
  MetricsRegistry registry;
  Histogram h = registry.AddHistogram("x_seconds", "X.", ExponentialBuckets(0.001, 2, 4));
  h.Observe(0.5);
  h.Observe(0.25);
  EXPECT_EQ(h.count(), 2u);
  EXPECT_DOUBLE_EQ(h.sum(), 0.75);
}

TEST(Histogram, TakesManyAtOnce) {
  MetricsRegistry registry;
  Histogram h = registry.AddHistogram("x_tokens", "X.", {1, 8});
  h.ObserveMany({2, 0, 1}, 30);
  EXPECT_EQ(h.count(), 3u);
  EXPECT_DOUBLE_EQ(h.sum(), 30);
  EXPECT_NE(registry.ToText().find("outrider_x_tokens_bucket{le=\"8\"} 2\n"), std::string::npos);
}

TEST(MetricsRegistry, LetsTheirOwnerSayMoreOfThePage) {
  MetricsRegistry registry;
  registry.AddGauge("a", "A.").Set(1);
  registry.AppendToText(
      [](const std::string& page) { return page.find("outrider_a 1\n") == std::string::npos ? "" : "seen 1\n"; });
  const std::string text = registry.ToText();
  EXPECT_EQ(text.substr(text.size() - 7), "seen 1\n");
  EXPECT_NE(text.find("\nprocess_cpu_seconds_total "), std::string::npos);
}

TEST(MetricsServer, NamesThePortThatIsInUse) {
  MetricsRegistry registry;
  auto first = MetricsServer::Start("127.0.0.1", 0, registry);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_GT((*first)->port(), 0);
  const auto second = MetricsServer::Start("127.0.0.1", (*first)->port(), registry);
  ASSERT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(second.status().message()).find(std::to_string((*first)->port())), std::string::npos);
}

}  // namespace
}  // namespace outrider
