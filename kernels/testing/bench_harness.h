// Timing of one op: the median of at least 20 samples with p10 and p90, as one JSON line, so that two runs can be
// compared by a script. A bench checks its result against the oracle before it times it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace outrider::kernels::testing {

struct BenchCase {
  std::string name;  // "rms_norm rows=1 size=576"
  double bytes = 0;  // read and written by one call, 0: not stated
  double flops = 0;  // of one call
  int num_threads = 1;
  int num_samples = 25;  // at least 20
  // Calls a sample, so that a sample takes at least this long: clock reads are some 30 ns.
  double sample_us_min = 200;
};

struct BenchResult {
  double us_median = 0;  // of one call
  double us_p10 = 0;
  double us_p90 = 0;
  int num_samples = 0;
  int64_t calls_per_sample = 0;
};

// Warms up, measures, prints {"bench":...,"us_median":...,"us_p10":...,"us_p90":...,"gb_per_s":...,"gflop_per_s":...}.
BenchResult RunBench(const BenchCase& bench_case, const std::function<void()>& call);

}  // namespace outrider::kernels::testing
