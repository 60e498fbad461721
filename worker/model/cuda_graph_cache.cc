#include "worker/model/cuda_graph_cache.h"

#include <algorithm>

#include "base/status_macros.h"
#include "worker/model/cuda_memory.h"

namespace outrider {

CudaGraphCache::~CudaGraphCache() {
  for (const Entry& entry : entries_) {
    if (entry.graph != nullptr) cudaGraphExecDestroy(entry.graph);
  }
}

namespace {

absl::StatusOr<int> CountKernels(cudaGraph_t graph) {
  size_t num_nodes = 0;
  RETURN_IF_ERROR(CudaStatus(cudaGraphGetNodes(graph, nullptr, &num_nodes), "counting a step's kernels"));
  std::vector<cudaGraphNode_t> nodes(num_nodes);
  RETURN_IF_ERROR(CudaStatus(cudaGraphGetNodes(graph, nodes.data(), &num_nodes), "counting a step's kernels"));
  int count = 0;
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
    RETURN_IF_ERROR(CudaStatus(cudaGraphNodeGetType(node, &type), "counting a step's kernels"));
    count += type == cudaGraphNodeTypeKernel ? 1 : 0;
  }
  return count;
}

}  // namespace

absl::Status CudaGraphCache::Begin(const Key& key, cudaStream_t stream, Mode* mode) {
  auto it = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (it != entries_.end()) {
    mode_ = it->graph != nullptr ? Mode::kReplay : Mode::kCapture;
  } else {
    mode_ = Mode::kEager;
    if (entries_.size() < kGraphsMax) {
      it = entries_.insert(entries_.end(), Entry());
    } else {
      it = std::min_element(entries_.begin(), entries_.end(),
                            [](const Entry& a, const Entry& b) { return a.last_use < b.last_use; });
      // The step before has been waited for, so no graph is running.
      if (it->graph != nullptr) cudaGraphExecDestroy(it->graph);
    }
    *it = {.key = key};
  }
  it->last_use = ++num_uses_;
  current_ = static_cast<size_t>(it - entries_.begin());
  *mode = mode_;
  if (mode_ != Mode::kCapture) return absl::OkStatus();
  // Other threads of the process may allocate meanwhile.
  return CudaStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a step");
}

absl::Status CudaGraphCache::End(cudaStream_t stream) {
  num_kernels_ = 0;
  if (mode_ == Mode::kEager) return absl::OkStatus();
  Entry& entry = entries_[current_];
  if (mode_ == Mode::kCapture) {
    cudaGraph_t graph = nullptr;
    RETURN_IF_ERROR(CudaStatus(cudaStreamEndCapture(stream, &graph), "capturing a step"));
    const absl::StatusOr<int> num_kernels = CountKernels(graph);
    const cudaError_t error = cudaGraphInstantiate(&entry.graph, graph, 0);
    cudaGraphDestroy(graph);
    RETURN_IF_ERROR(CudaStatus(error, "making a step's graph"));
    ASSIGN_OR_RETURN(entry.num_kernels, num_kernels);
  }
  mode_ = Mode::kEager;
  num_kernels_ = entry.num_kernels;
  return CudaStatus(cudaGraphLaunch(entry.graph, stream), "starting a step's graph");
}

}  // namespace outrider
