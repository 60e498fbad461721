// Sends requests to a router at given times, whether or not those before have ended, and records what came when.
#pragma once

#include <functional>
#include <memory>
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

// A request that is open. It may be destroyed once it has said that it ended.
class OpenCall {
 public:
  virtual ~OpenCall() = default;
};

// Sends request `index`, and fills `record` until it calls `on_end`, once, from any thread, and touches neither from
// then on.
using StartCall =
    std::function<std::unique_ptr<OpenCall>(size_t index, BenchRecord& record, std::function<void()> on_end)>;

// `arrivals_s` are seconds from now, not falling, one a request. `on_progress(num_done, num_failed)` is called from the
// calling thread, as `start` is. Requests that fail are in the records.
OpenLoopResult RunOpenLoop(const StartCall& start, const OpenLoopOptions& options,
                           const std::vector<double>& arrivals_s, const std::function<void(int, int)>& on_progress);

// Of requests to a router over gRPC.
OpenLoopResult RunOpenLoop(v1::Inference::Stub& stub, const OpenLoopOptions& options,
                           const std::vector<v1::GenerateRequest>& requests, const std::vector<double>& arrivals_s,
                           const std::function<void(int, int)>& on_progress);

}  // namespace outrider
