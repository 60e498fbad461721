// When the requests of an open-loop benchmark come: they do not wait for those before them. Pure.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "absl/status/status.h"

namespace outrider {

struct ArrivalOptions {
  enum class Ramp { kNone, kLinear, kExponential };
  // Requests a second; infinite: all at once, at 0.
  double request_rate = std::numeric_limits<double>::infinity();
  // Shape of the gamma distribution of gaps: 1 is a Poisson process, less is burstier, more is more even, infinite is a
  // fixed gap.
  double burstiness = 1;
  // Instead of request_rate: from start to end, by the index of the request.
  Ramp ramp = Ramp::kNone;
  double ramp_start = 0, ramp_end = 0;
  uint64_t seed = 0;
};

// INVALID_ARGUMENT naming the flag of `outrider bench serve`, its value and what it takes.
absl::Status ValidateArrivals(const ArrivalOptions& options);

// The rate in force at request `index` of `num_requests`.
double RequestRate(const ArrivalOptions& options, int index, int num_requests);

// Seconds from the start, not falling. Without a ramp they are stretched so that the last is at num_requests / rate
// exactly, whatever the seed, as `vllm bench serve` does. REQUIRES: valid options; num_requests >= 0.
std::vector<double> ArrivalTimes(const ArrivalOptions& options, int num_requests);

}  // namespace outrider
