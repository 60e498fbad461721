// Sends requests to a router at given times, whether or not those before have ended, and records what came when.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/bench_statistics.h"
#include "proto/inference.grpc.pb.h"

namespace outrider {

// Requests at once without max_concurrency, at most: open-loop load is without bound, this machine is not.
inline constexpr int kMaxOpenRequests = 65536;

struct OpenLoopOptions {
  std::optional<int> max_concurrency;  // what is due beyond waits here, in order
  double timeout_s = 0;                // of a request; 0: none
};

struct OpenLoopResult {
  std::vector<BenchRecord> records;  // by request
  double duration_s = 0;             // from the start to the last end
};

// `arrivals_s` are seconds from now, not falling, one a request. `on_progress(num_done, num_failed)` is called from the
// calling thread. Requests that fail are in the records.
OpenLoopResult RunOpenLoop(v1::Inference::Stub& stub, const OpenLoopOptions& options,
                           const std::vector<v1::GenerateRequest>& requests, const std::vector<double>& arrivals_s,
                           const std::function<void(int, int)>& on_progress);

}  // namespace outrider
