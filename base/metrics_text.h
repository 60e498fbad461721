// Reads the samples of a page in Prometheus' text format 0.0.4. Pure.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace outrider {

struct MetricSample {
  std::string name;
  std::vector<std::pair<std::string, std::string>> labels;  // as on the page, unescaped
  double value = 0;
};

// The samples in their order; comments, and lines that are no samples, are left out. Timestamps are not looked at.
std::vector<MetricSample> ParseMetrics(const std::string& page);

// Empty if there is no such label.
std::string LabelOf(const MetricSample& sample, const std::string& label);

// A label's value as it stands between the quotes of a page.
std::string EscapeLabelValue(const std::string& value);

}  // namespace outrider
