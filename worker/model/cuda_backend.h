// The GPU backend as the rest of the worker sees it; including this needs no CUDA toolkit. A build without
// --config=cuda has all of it too, and says so where it is asked for a GPU (cuda_backend_absent.cc).
//
// Thread safety: free functions are pure or read the machine; see each class.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/common/thread_pool.h"
#include "worker/model/checkpoint.h"
#include "worker/model/model_config.h"
#include "worker/model/ops.h"
#include "worker/model/shard_plan.h"
#include "worker/model/weights.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/device_transport.h"

namespace outrider {

// OK if this process can compute on GPU `device_index`. UNIMPLEMENTED if the build has no CUDA; FAILED_PRECONDITION
// naming what was found and what is needed: no driver, a driver older than the build's CUDA, no such GPU, or one of
// another compute capability than the kernels were built for.
absl::Status CheckCuda(int device_index);

// GPUs that this process sees; 0 without CUDA or a driver.
int NumCudaDevices();

// Bytes a second that a kernel which does nothing else reads from GPU `device_index`'s memory, of 2 GiB: the median of
// 20 passes. Errors: those of CheckCuda; RESOURCE_EXHAUSTED.
absl::StatusOr<double> CudaReadBandwidth(int device_index);

// The matrices of one rank in the memory of its GPU: bf16, packed for the products; q, k, v side by side in one, gate
// and up in turn in another. Vectors stay with `Weights`.
//
// Thread safety: constant once loaded.
class CudaWeights {
 public:
  virtual ~CudaWeights() = default;
  // Of this rank's matrices.
  virtual int64_t bytes() const = 0;
};

struct CudaLoadOptions {
  const Checkpoint* checkpoint = nullptr;
  const ModelConfig* config = nullptr;
  const RankShard* shard = nullptr;
  int device_index = 0;
  kernels::ThreadPool* pool = nullptr;  // dequantises
};

struct CudaLoadResult {
  std::unique_ptr<Weights> vectors;  // without matrices
  std::unique_ptr<CudaWeights> matrices;
};

// Reads a rank's tensors: matrices through pinned memory to the GPU, the rest to the host. Errors: those of LoadWeights
// and CheckCuda; UNIMPLEMENTED for sizes that the kernels have no code for; RESOURCE_EXHAUSTED with the arithmetic if
// the GPU's free memory does not hold the weights.
absl::StatusOr<CudaLoadResult> LoadCudaWeights(const CudaLoadOptions& options);

// What takes part in a group's numerics_id: compute capability, element types of activations and KV.
std::string CudaNumericsName();

// What one KV block of `block_size` positions takes on the GPU, over all layers of a rank.
int64_t CudaKvBytesPerBlock(const ModelConfig& config, const RankShard& shard, int block_size);

struct CudaOpsOptions {
  const ModelConfig* config = nullptr;
  const ShardPlan* plan = nullptr;
  int rank = 0;
  const Weights* vectors = nullptr;
  const CudaWeights* matrices = nullptr;
  int device_index = 0;
  Communicator* communicator = nullptr;
  DeviceTransport transport = DeviceTransport::kAuto;  // between ranks
  kernels::ThreadPool* pool = nullptr;                 // samples rows that are not plain greedy
  int num_kv_blocks = 0;
  int block_size = 16;
  int max_step_tokens = 0;
  int max_sequences = 0;
  int max_positions = 0;
  bool profile = false;  // with an op_clock
  // For tests of the tests (PlantedFault::kReverseSumOrder).
  bool reverse_sum_order = false;
};

// Bytes of the GPU that KV blocks may have: what `memory_utilization` of the whole leaves after this rank's weights,
// its activations (of `options`, which need no KV blocks) and a reserve, and never more than is free now.
// RESOURCE_EXHAUSTED with the arithmetic if nothing is left.
absl::StatusOr<int64_t> CudaKvBytesAvailable(const CudaOpsOptions& options, double memory_utilization);

// A collective of the group. Every pointer outlives the result. RESOURCE_EXHAUSTED naming what did not fit; with more
// than one rank the errors of ChooseTransport (worker/parallel/device_transport.h) and of the communicator;
// INVALID_ARGUMENT for a block size that attention has no layout for.
absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(const CudaOpsOptions& options);

}  // namespace outrider
