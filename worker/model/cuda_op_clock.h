// CudaOpClock: an event of the GPU at each mark. Marks within a captured step become nodes of its graph, so the times
// are those of a graph, not of a host that launches; kernels next to a mark do not overlap, as without it they do.
//
// Equal graphs have equal marks: a replayed step makes the same ones again without recording them.
//
// Thread safety: none; the thread that runs steps.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "worker/model/op_clock.h"

namespace outrider {

class CudaOpClock final : public OpClock {
 public:
  // Of the current GPU; `stream` outlives this.
  explicit CudaOpClock(cudaStream_t stream) : stream_(stream) {}
  ~CudaOpClock() override;
  CudaOpClock(const CudaOpClock&) = delete;
  CudaOpClock& operator=(const CudaOpClock&) = delete;

  // Marks from now on are in a graph that is started later, and only counted here.
  void set_replayed(bool replayed) { replayed_ = replayed; }

  absl::StatusOr<OpTimes> Read() override;

 private:
  absl::Status NoteBegin() override;
  absl::Status NoteMark(OpKind kind) override;
  absl::Status Record();

  const cudaStream_t stream_;
  std::vector<cudaEvent_t> events_;  // of the marks of a step; the first is its beginning
  std::vector<OpKind> kinds_;        // of the step's marks after the first
  bool replayed_ = false;
};

}  // namespace outrider
