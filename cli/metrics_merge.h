// MergeMetrics makes one Prometheus page of those of several processes. Pure.
//
// Each series gets the labels of its process, but for those it has itself (the router's series of a group keep their
// group). A metric's HELP and TYPE are said once, by the first who has it; series of another type under the same name
// are left out, as are lines that are none.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace outrider {

struct MetricsPage {
  std::vector<std::pair<std::string, std::string>> labels;  // name and value, in the order they are shown
  std::string text;                                         // Prometheus text format 0.0.4
};

std::string MergeMetrics(const std::vector<MetricsPage>& pages);

}  // namespace outrider
