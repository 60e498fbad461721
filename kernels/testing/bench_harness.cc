#include "kernels/testing/bench_harness.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

namespace outrider::kernels::testing {
namespace {

double MicrosOf(int64_t num_calls, const std::function<void()>& call) {
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < num_calls; ++i) call();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

BenchResult RunBench(const BenchCase& bench_case, const std::function<void()>& call) {
  BenchResult result;
  result.num_samples = std::max(20, bench_case.num_samples);
  call();
  int64_t calls = 1;
  while (MicrosOf(calls, call) < bench_case.sample_us_min && calls < (int64_t{1} << 30)) calls *= 2;
  result.calls_per_sample = calls;

  std::vector<double> samples;
  for (int i = 0; i < result.num_samples; ++i) {
    samples.push_back(MicrosOf(calls, call) / static_cast<double>(calls));
  }
  std::sort(samples.begin(), samples.end());
  const auto quantile = [&](double q) { return samples[static_cast<size_t>(q * (samples.size() - 1) + 0.5)]; };
  result.us_median = quantile(0.5);
  result.us_p10 = quantile(0.1);
  result.us_p90 = quantile(0.9);

  std::printf("{\"bench\":\"%s\",\"threads\":%d,\"us_median\":%.3f,\"us_p10\":%.3f,\"us_p90\":%.3f,\"samples\":%d",
              bench_case.name.c_str(), bench_case.num_threads, result.us_median, result.us_p10, result.us_p90,
              result.num_samples);
  if (bench_case.bytes > 0) std::printf(",\"gb_per_s\":%.2f", bench_case.bytes / result.us_median * 1e-3);
  if (bench_case.flops > 0) std::printf(",\"gflop_per_s\":%.2f", bench_case.flops / result.us_median * 1e-3);
  std::printf("}\n");
  std::fflush(stdout);
  return result;
}

}  // namespace outrider::kernels::testing
