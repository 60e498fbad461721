// Pages of metrics (base/metrics_text.h) as one that can be asked. Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace outrider {

class MetricsPageView {
 public:
  // `labels` go to samples that have no such label.
  void Add(const std::string& page, const std::map<std::string, std::string>& labels = {});

  using Match = std::map<std::string, std::string>;
  // The sum of the samples that have all of `match`; an empty value there: that have no such label. `otherwise` if
  // there is none.
  double Sum(const std::string& name, const Match& match = {}, double otherwise = 0) const;
  bool Has(const std::string& name, const Match& match = {}) const;
  // Values of a label among a metric's samples, in order, each once.
  std::vector<std::string> Values(const std::string& name, const std::string& label) const;
  // Of the histogram `name`: counts by upper bound (le), as they accumulate, all samples summed.
  std::map<double, double> Buckets(const std::string& name, const Match& match = {}) const;

 private:
  struct Series {
    bool Matches(const Match& match) const;
    std::map<std::string, std::string> labels;
    double value = 0;
  };
  std::map<std::string, std::vector<Series>> series_;  // by name
};

// The value below which a share `q` of the observations between two views of a histogram are, as PromQL's
// histogram_quantile has it: linear within a bucket, the bound of the last but one beyond. NaN if there were none.
double HistogramQuantile(const std::map<double, double>& before, const std::map<double, double>& after, double q);

}  // namespace outrider
