// What the memory of a GPU gives to readers (cuda_backend.h).
#include <algorithm>
#include <vector>

#include "base/status_macros.h"
#include "kernels/common/device_read.h"
#include "worker/model/cuda_backend.h"
#include "worker/model/cuda_memory.h"
#include "worker/model/kernel_status.h"

namespace outrider {
namespace {

constexpr int kPasses = 20;

struct Events {
  cudaEvent_t begin = nullptr, end = nullptr;
  absl::Status Create() {
    RETURN_IF_ERROR(CudaStatus(cudaEventCreate(&begin), "event"));
    return CudaStatus(cudaEventCreate(&end), "event");
  }
  ~Events() {
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
  }
};

}  // namespace

absl::StatusOr<double> CudaReadBandwidth(int device_index) {
  RETURN_IF_ERROR(CheckCuda(device_index));
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device_index), "choosing the GPU"));
  constexpr int64_t kBytes = int64_t{2} << 30;  // far more than its cache holds
  ASSIGN_OR_RETURN(const CudaMemory memory,
                   CudaMemory::Allocate(CudaMemoryKind::kDevice, kBytes, "measuring the read bandwidth"));
  ASSIGN_OR_RETURN(const CudaMemory sum, CudaMemory::Allocate(CudaMemoryKind::kDevice, 4, "a sum"));
  // Bytes that are not all the same, as weights are not.
  std::vector<uint32_t> noise(1 << 20);
  uint32_t state = 1;
  for (uint32_t& word : noise) word = state = state * 1664525u + 1013904223u;
  const int64_t noise_bytes = static_cast<int64_t>(noise.size() * 4);
  for (int64_t at = 0; at < kBytes; at += noise_bytes) {
    RETURN_IF_ERROR(CudaStatus(
        cudaMemcpy(memory.data<uint8_t>() + at, noise.data(), static_cast<size_t>(noise_bytes), cudaMemcpyHostToDevice),
        "filling memory"));
  }
  Events events;
  RETURN_IF_ERROR(events.Create());
  std::vector<float> ms;
  for (int i = -3; i < kPasses; ++i) {
    RETURN_IF_ERROR(CudaStatus(cudaEventRecord(events.begin), "reading"));
    RETURN_IF_ERROR(
        KernelStatus(kernels::DeviceRead(
                         {.data = memory.data<uint8_t>(), .num_bytes = kBytes, .sum = sum.data<uint32_t>()}, nullptr),
                     "reading"));
    RETURN_IF_ERROR(CudaStatus(cudaEventRecord(events.end), "reading"));
    RETURN_IF_ERROR(CudaStatus(cudaEventSynchronize(events.end), "reading"));
    float took = 0;
    RETURN_IF_ERROR(CudaStatus(cudaEventElapsedTime(&took, events.begin, events.end), "reading"));
    if (i >= 0) ms.push_back(took);
  }
  uint32_t read = 0, expected = 0;
  RETURN_IF_ERROR(CudaStatus(cudaMemcpy(&read, sum.data(), 4, cudaMemcpyDeviceToHost), "reading"));
  for (const uint32_t word : noise) expected += word;
  expected *= static_cast<uint32_t>(kBytes / noise_bytes) * static_cast<uint32_t>(kPasses + 3);
  if (read != expected) return absl::InternalError("the GPU read something else than was written");
  std::nth_element(ms.begin(), ms.begin() + kPasses / 2, ms.end());
  return static_cast<double>(kBytes) * 1000 / ms[kPasses / 2];
}

}  // namespace outrider
