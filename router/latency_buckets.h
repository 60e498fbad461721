// Bounds of the router's histograms. Each holds vLLM's bounds of the like metric, so that vLLM's can be read off it
// exactly (router/vllm_aliases.h), and finer ones below: vLLM's begin where a small model's times end.
#pragma once

#include <vector>

namespace outrider::router {

// vLLM's, v0.26: vllm/v1/metrics/loggers.py. Seconds; tokens go 1, 2, 5, 10, ... up to the model's length.
inline const std::vector<double>& VllmFirstTokenBounds() {
  static const std::vector<double> bounds = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                             1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
  return bounds;
}
inline const std::vector<double>& VllmInterTokenBounds() {
  static const std::vector<double> bounds = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                             0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
  return bounds;
}
inline const std::vector<double>& VllmRequestBounds() {
  static const std::vector<double> bounds = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                             30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
  return bounds;
}
inline const std::vector<double>& VllmChoiceBounds() {
  static const std::vector<double> bounds = {1, 2, 5, 10, 20};
  return bounds;
}
inline const std::vector<double>& TokenBounds() {
  static const std::vector<double> bounds = {1,    2,    5,     10,    20,    50,     100,    200,    500,    1000,
                                             2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000};
  return bounds;
}

// `bounds` and before them 1, 2, 5 times powers of ten from 0.1 ms on.
inline std::vector<double> WithFinerBounds(const std::vector<double>& bounds) {
  std::vector<double> all;
  for (const double bound : {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2}) {
    if (bound < bounds.front()) all.push_back(bound);
  }
  all.insert(all.end(), bounds.begin(), bounds.end());
  return all;
}

}  // namespace outrider::router
