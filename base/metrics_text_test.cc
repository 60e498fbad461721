#include "base/metrics_text.h"

#include <gtest/gtest.h>

#include <cmath>

namespace outrider {
namespace {

TEST(ParseMetrics, ReadsNamesLabelsAndValues) {
  const auto samples = ParseMetrics(
      "# HELP a A.\n# TYPE a counter\na 3\nb_bucket{group=\"g,}\",le=\"+Inf\"} 1e3 "
      "1700000000\nvllm:c{x=\"\\\"\\\\\\n\"} NaN");
  ASSERT_EQ(samples.size(), 3u);
  EXPECT_EQ(samples[0].name, "a");
  EXPECT_EQ(samples[0].value, 3);
  EXPECT_EQ(samples[1].value, 1000);
  EXPECT_EQ(LabelOf(samples[1], "group"), "g,}");
  EXPECT_EQ(LabelOf(samples[1], "le"), "+Inf");
  EXPECT_EQ(LabelOf(samples[1], "none"), "");
  EXPECT_EQ(samples[2].name, "vllm:c");
  EXPECT_EQ(LabelOf(samples[2], "x"), "\"\\\n");
  EXPECT_EQ(EscapeLabelValue("\"\\\n"), "\\\"\\\\\\n");
  EXPECT_TRUE(std::isnan(samples[2].value));
}

TEST(ParseMetrics, LeavesOutWhatIsNoSample) {
  EXPECT_TRUE(ParseMetrics("").empty());
  EXPECT_TRUE(ParseMetrics("garbage\n{} 1\nx{a=\"b 1\nx{a} 1\nx{a=\"b\"}\nx{a=\"b\"} word\n 1\n").empty());
}

}  // namespace
}  // namespace outrider
