// What a step of a model costs: decode steps by batch, verify steps by rows, prompts; nothing of the network, the
// router or the scheduler. Every step runs the whole path of a rank: plan, forward pass, greedy choice.
//
// Ranks are threads of this process on a CPU; a GPU runs one.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/device.h"
#include "worker/model/load_format.h"
#include "worker/model/weights.h"

namespace outrider {

struct EngineBenchOptions {
  std::string model;
  LoadFormat load_format = LoadFormat::kAuto;
  Device device = Device::kCpu;
  Numerics numerics = Numerics::kInvariant;
  int tensor_parallel_size = 1;
  int threads = 1;                               // of the machine; divided over ranks
  int context = 1024;                            // tokens of a sequence when its steps are measured
  int prompt = 512;                              // tokens of the prompts that are measured
  int chunk = 256;                               // of them a step
  int steps = 40;                                // measured, of each kind
  std::vector<int> batch = {1};                  // sequences of a decode step
  std::vector<int> rows = {1, 2, 4, 8, 16, 32};  // of a verify step of one sequence: 1 + K, all drafts wrong
};

// INVALID_ARGUMENT naming the flag, its value and what it takes.
absl::Status Validate(const EngineBenchOptions& options);

// Times are in ms: medians with the 10th and 90th percentile. `weight_bytes` and `kv_bytes` are what a step must read,
// of all ranks; `read_bandwidth_ratio` their share of what the processor's memory was measured to give in the same run,
// with as many threads (CPU only). Errors: of Validate, LoadModel and the runners.
absl::StatusOr<nlohmann::ordered_json> BenchEngine(const EngineBenchOptions& options);

// The same for people.
std::string EngineBenchText(const nlohmann::ordered_json& result);

}  // namespace outrider
