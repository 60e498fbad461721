#include "cli/arrival_process.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"

namespace outrider {

absl::Status ValidateArrivals(const ArrivalOptions& options) {
  // Written so that NaN fails.
  if (!(options.burstiness > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--burstiness ", options.burstiness, " is out of range; it takes more than 0, and inf"));
  }
  if (options.ramp == ArrivalOptions::Ramp::kNone) {
    if (options.request_rate > 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--request-rate ", options.request_rate, " is out of range; it takes more than 0, and inf"));
  }
  if (!std::isinf(options.request_rate)) {
    return absl::InvalidArgumentError("give either --request-rate or --ramp-up-strategy, not both");
  }
  if (!(options.ramp_start > 0) || std::isinf(options.ramp_start)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--ramp-up-start-rps ", options.ramp_start, " is out of range; it takes more than 0"));
  }
  if (!(options.ramp_end >= options.ramp_start) || std::isinf(options.ramp_end)) {
    return absl::InvalidArgumentError(absl::StrCat("--ramp-up-end-rps ", options.ramp_end,
                                                   " is out of range; it takes --ramp-up-start-rps, which is ",
                                                   options.ramp_start, ", or more"));
  }
  return absl::OkStatus();
}

double RequestRate(const ArrivalOptions& options, int index, int num_requests) {
  const double progress = static_cast<double>(index) / std::max(num_requests - 1, 1);
  switch (options.ramp) {
    case ArrivalOptions::Ramp::kLinear:
      return options.ramp_start + (options.ramp_end - options.ramp_start) * progress;
    case ArrivalOptions::Ramp::kExponential:
      return options.ramp_start * std::pow(options.ramp_end / options.ramp_start, progress);
    case ArrivalOptions::Ramp::kNone:
      break;
  }
  return options.request_rate;
}

std::vector<double> ArrivalTimes(const ArrivalOptions& options, int num_requests) {
  std::mt19937_64 random(options.seed);
  std::vector<double> times;
  times.reserve(static_cast<size_t>(num_requests));
  double now = 0;
  for (int i = 0; i < num_requests; ++i) {
    const double rate = RequestRate(options, i, num_requests);
    if (std::isinf(rate)) {
      // At once.
    } else if (std::isinf(options.burstiness)) {
      now += 1 / rate;
    } else {
      now += std::gamma_distribution<double>(options.burstiness, 1 / (rate * options.burstiness))(random);
    }
    times.push_back(now);
  }
  if (options.ramp == ArrivalOptions::Ramp::kNone && now > 0) {
    const double stretch = num_requests / options.request_rate / now;
    for (double& time : times) time *= stretch;
  }
  return times;
}

}  // namespace outrider
