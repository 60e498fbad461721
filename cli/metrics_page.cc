#include "cli/metrics_page.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "absl/strings/numbers.h"
#include "base/metrics_text.h"

namespace outrider {

void MetricsPageView::Add(const std::string& page, const std::map<std::string, std::string>& labels) {
  for (MetricSample& sample : ParseMetrics(page)) {
    Series series{.labels = {sample.labels.begin(), sample.labels.end()}, .value = sample.value};
    series.labels.insert(labels.begin(), labels.end());
    series_[sample.name].push_back(std::move(series));
  }
}

bool MetricsPageView::Series::Matches(const Match& match) const {
  for (const auto& [label, expected] : match) {
    const auto found = labels.find(label);
    if (expected.empty() ? found != labels.end() : found == labels.end() || found->second != expected) return false;
  }
  return true;
}

double MetricsPageView::Sum(const std::string& name, const Match& match, double otherwise) const {
  const auto found = series_.find(name);
  if (found == series_.end()) return otherwise;
  double sum = 0;
  bool any = false;
  for (const Series& series : found->second) {
    if (!series.Matches(match)) continue;
    sum += series.value;
    any = true;
  }
  return any ? sum : otherwise;
}

bool MetricsPageView::Has(const std::string& name, const Match& match) const {
  return !std::isnan(Sum(name, match, std::numeric_limits<double>::quiet_NaN()));
}

std::vector<std::string> MetricsPageView::Values(const std::string& name, const std::string& label) const {
  std::set<std::string> values;
  const auto found = series_.find(name);
  if (found == series_.end()) return {};
  for (const Series& series : found->second) {
    const auto value = series.labels.find(label);
    if (value != series.labels.end()) values.insert(value->second);
  }
  return {values.begin(), values.end()};
}

std::map<double, double> MetricsPageView::Buckets(const std::string& name, const Match& match) const {
  std::map<double, double> buckets;
  const auto found = series_.find(name + "_bucket");
  if (found == series_.end()) return buckets;
  for (const Series& series : found->second) {
    const auto bound = series.labels.find("le");
    double le = 0;
    if (bound == series.labels.end() || !series.Matches(match) || !absl::SimpleAtod(bound->second, &le)) continue;
    buckets[le] += series.value;
  }
  return buckets;
}

double HistogramQuantile(const std::map<double, double>& before, const std::map<double, double>& after, double q) {
  const double nothing = std::numeric_limits<double>::quiet_NaN();
  const auto change = [&](std::map<double, double>::const_iterator bucket) {
    const auto earlier = before.find(bucket->first);
    return bucket->second - (earlier == before.end() ? 0 : earlier->second);
  };
  if (after.empty()) return nothing;
  const double total = change(std::prev(after.end()));
  if (!(total > 0)) return nothing;
  double lower = 0, count_below = 0;
  for (auto bucket = after.begin(); bucket != after.end(); ++bucket) {
    const double count = change(bucket);
    if (count >= q * total && count > count_below) {
      if (std::isinf(bucket->first)) return lower;
      return lower + (bucket->first - lower) * std::max(0.0, q * total - count_below) / (count - count_below);
    }
    lower = bucket->first;
    count_below = count;
  }
  return lower;
}

}  // namespace outrider
