#include "worker/model/cuda_op_clock.h"

#include "base/status_macros.h"
#include "worker/model/cuda_memory.h"

namespace outrider {

CudaOpClock::~CudaOpClock() {
  for (const cudaEvent_t event : events_) cudaEventDestroy(event);
}

absl::Status CudaOpClock::NoteBegin() {
  kinds_.clear();
  replayed_ = false;
  return Record();
}

absl::Status CudaOpClock::NoteMark(OpKind kind) {
  kinds_.push_back(kind);
  return replayed_ ? absl::OkStatus() : Record();
}

absl::Status CudaOpClock::Record() {
  const size_t index = kinds_.size();
  while (events_.size() <= index) {
    cudaEvent_t event = nullptr;
    RETURN_IF_ERROR(CudaStatus(cudaEventCreate(&event), "event of a profile"));
    events_.push_back(event);
  }
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  RETURN_IF_ERROR(CudaStatus(cudaStreamIsCapturing(stream_, &capturing), "profile"));
  // Within a graph: a node of it, which records whenever the graph runs.
  const unsigned flags = capturing == cudaStreamCaptureStatusNone ? cudaEventRecordDefault : cudaEventRecordExternal;
  return CudaStatus(cudaEventRecordWithFlags(events_[index], stream_, flags), "profile");
}

absl::StatusOr<OpTimes> CudaOpClock::Read() {
  RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream_), "profile"));
  OpTimes times{};
  for (size_t i = 0; i < kinds_.size(); ++i) {
    float ms = 0;
    RETURN_IF_ERROR(CudaStatus(cudaEventElapsedTime(&ms, events_[i], events_[i + 1]), "profile"));
    OpTime& time = times[static_cast<size_t>(kinds_[i])];
    ++time.count;
    time.ms += ms;
  }
  return times;
}

}  // namespace outrider
