// CpuOps: the operations of the transformer on the CPU, in two numerics.
//
//   invariant  packed weights, fast kernels, F16 keys and values
//   reference  the oracles of kernels/: fp32 weights, double accumulators, fp32 keys and values
// Both promise that a row's bits depend on the row alone; they differ from each other by rounding.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/common/thread_pool.h"
#include "worker/model/kv_storage.h"
#include "worker/model/model_config.h"
#include "worker/model/ops.h"
#include "worker/model/shard_plan.h"
#include "worker/model/weights.h"
#include "worker/parallel/communicator.h"

namespace outrider {

struct CpuOpsOptions {
  const ModelConfig* config = nullptr;
  const ShardPlan* plan = nullptr;
  int rank = 0;
  const Weights* weights = nullptr;
  Numerics numerics = Numerics::kInvariant;
  Communicator* communicator = nullptr;
  kernels::ThreadPool* pool = nullptr;
  int num_kv_blocks = 0;
  int block_size = 16;
  int max_step_tokens = 0;
  int max_positions = 0;
  bool profile = false;  // with an op_clock
  // For tests of the tests (PlantedFault::kReverseSumOrder).
  bool reverse_sum_order = false;
};

// Every pointer outlives the result. RESOURCE_EXHAUSTED naming what did not fit; INVALID_ARGUMENT for a block size that
// the attention kernel has no layout for.
absl::StatusOr<std::unique_ptr<Ops>> CreateCpuOps(const CpuOpsOptions& options);

}  // namespace outrider
