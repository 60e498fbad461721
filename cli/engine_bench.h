// What a step of a model costs: decode steps by batch, verify steps by rows, prompts; nothing of the network, the
// router or the scheduler. Every step runs the whole path of a group: plan, forward pass, choice (greedy if
// nothing else is asked for), and with several ranks the plan's way to them and the comparison of what they chose.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/device.h"
#include "worker/model/load_format.h"
#include "worker/model/weights.h"
#include "worker/sequence/sampling_params.h"

namespace outrider {

struct EngineBenchOptions {
  std::string model;
  LoadFormat load_format = LoadFormat::kAuto;
  Device device = Device::kCpu;
  Numerics numerics = Numerics::kInvariant;
  int tensor_parallel_size = 1;                  // processes, on GPUs with one each
  int threads = 1;                               // of the machine; divided over ranks
  int context = 1024;                            // tokens of a sequence when its steps are measured
  int prompt = 0;                                // tokens of the prompts that are measured; 0: 512, on GPUs 2048
  int chunk = 0;                                 // of them a step; 0: 256, on GPUs 2048
  int steps = 40;                                // measured, of each kind
  std::vector<int> batch = {1};                  // sequences of a decode step
  std::vector<int> rows = {1, 2, 4, 8, 16, 32};  // of a verify step of one sequence: 1 + K, all drafts wrong
  bool profile = false;                          // time by op too, of as many steps more
  SamplingParams sampling = {.temperature = 0};  // how tokens are chosen; max_tokens is the bench's own
};

// INVALID_ARGUMENT naming the flag, its value and what it takes.
absl::Status Validate(const EngineBenchOptions& options);

// Times are in ms: medians with the 10th and 90th percentile. `sampling` says how tokens were chosen. Bytes are a
// rank's: `weight_bytes` and `kv_bytes` are what a step must read, `read_bandwidth_ratio` their share of what the
// rank's memory was measured to give in the same run: that of its GPU, or its part of the processor's. `launches` is
// the number of kernels of a step before the choice, on a GPU. With `profile`, `ops` has the count and ms of each op of
// the leader, medians of steps of their own; all_reduce then includes the wait for the slowest rank. Errors: of
// Validate and BenchGroup. `program` is the outrider binary, for the other ranks.
absl::StatusOr<nlohmann::ordered_json> BenchEngine(const EngineBenchOptions& options,
                                                   const std::string& program = "/proc/self/exe");

// All of a rank above 0 of the same bench.
absl::Status RunEngineBenchRank(const EngineBenchOptions& options, int rank, const std::string& leader_address);

// The same for people.
std::string EngineBenchText(const nlohmann::ordered_json& result);

}  // namespace outrider
