// A rank's matrices on its GPU.
#pragma once

#include <vector>

#include "kernels/gemm/device_gemm.h"
#include "worker/model/cuda_backend.h"
#include "worker/model/cuda_memory.h"

namespace outrider {

struct CudaLayerWeights {
  kernels::DeviceMatrix qkv;               // [(heads + 2 * KV heads of the rank) * head_dim, hidden_size]
  kernels::DeviceMatrix attention_output;  // [hidden_size, heads of the rank * head_dim]
  kernels::DeviceMatrix gate_up;           // [2 * intermediate of the rank, hidden_size], 16 of each in turn
  kernels::DeviceMatrix down;              // [hidden_size, intermediate of the rank]
};

class CudaWeightsOnDevice final : public CudaWeights {
 public:
  int64_t bytes() const override { return bytes_; }

  std::vector<CudaLayerWeights> layers;
  kernels::DeviceMatrix head;       // [vocabulary rows of the rank, hidden_size]
  kernels::DeviceMatrix embedding;  // [vocab_size, hidden_size]; the head's own memory if they are one on this rank

  // Makes room for a matrix.
  absl::Status Add(int64_t out_features, int64_t in_features, absl::string_view what, kernels::DeviceMatrix* matrix);

 private:
  std::vector<CudaMemory> memory_;
  int64_t bytes_ = 0;
};

}  // namespace outrider
