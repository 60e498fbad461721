#include "benchmarks/edge/stream_load.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"

namespace outrider::edge {

int StreamFigures::num_failed() const {
  int count = 0;
  for (const auto& [what, times] : failures) count += times;
  return count;
}

std::string StreamFigures::WhatFailed() const {
  std::string out;
  for (const auto& [what, times] : failures) absl::StrAppend(&out, out.empty() ? "" : "; ", times, " x ", what);
  return out;
}

std::vector<Duration> RandomStarts(double rate, double seconds, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(rate);
  std::vector<Duration> starts;
  for (double at = gap(random); at < seconds; at += gap(random)) {
    starts.push_back(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(at)));
  }
  return starts;
}

std::vector<Duration> EvenStarts(int count, double seconds) {
  std::vector<Duration> starts;
  for (int i = 0; i < count; ++i) {
    starts.push_back(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds * i / count)));
  }
  return starts;
}

double Milliseconds(Duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const auto at = values.begin() + static_cast<ptrdiff_t>(q * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace outrider::edge
