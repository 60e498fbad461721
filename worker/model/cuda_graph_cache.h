// CudaGraphCache keeps the launches of steps that come again: a small step is hundreds of short kernels, which the host
// launches slower than the GPU runs them; as a graph they are one launch.
//
// A step's shape is its key: equal keys mean equal grids and equal places of every input, so only what lies in memory
// differs. A shape is captured when it is seen the second time; at kGraphsMax the one unused the longest goes.
//
// Thread safety: none; one thread runs the steps of a stream.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace outrider {

class CudaGraphCache {
 public:
  // Graphs of a 32-layer model take about 1 MiB each.
  static constexpr size_t kGraphsMax = 96;
  using Key = std::array<int32_t, 6>;

  enum class Mode : uint8_t {
    kEager,    // launch each operation
    kCapture,  // launch each operation into the graph: End makes and starts it
    kReplay,   // launch none: End starts the graph
  };

  CudaGraphCache() = default;
  ~CudaGraphCache();
  CudaGraphCache(const CudaGraphCache&) = delete;
  CudaGraphCache& operator=(const CudaGraphCache&) = delete;

  // How the step of shape `key` is to be launched; with kCapture the stream is capturing from now on.
  absl::Status Begin(const Key& key, cudaStream_t stream, Mode* mode);
  // After the step's last operation.
  absl::Status End(cudaStream_t stream);

  // Kernels in the graph of the last step; 0 if it was none.
  int num_kernels() const { return num_kernels_; }

 private:
  struct Entry {
    Key key = {};
    cudaGraphExec_t graph = nullptr;  // null: seen once
    uint64_t last_use = 0;
    int num_kernels = 0;
  };

  std::vector<Entry> entries_;
  size_t current_ = 0;
  Mode mode_ = Mode::kEager;
  uint64_t num_uses_ = 0;
  int num_kernels_ = 0;
};

}  // namespace outrider
