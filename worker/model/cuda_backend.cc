#include "worker/model/cuda_backend.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/model/cuda_memory.h"
#include "worker/model/cuda_step_sizes.h"

namespace outrider {

absl::Status CheckCuda(int device_index) {
  int driver = 0, count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return absl::FailedPreconditionError(
        "no NVIDIA driver is installed here (libcuda.so.1 is not found); install one, or use device cpu");
  }
  const auto version = [](int v) { return absl::StrCat(v / 1000, ".", v % 1000 / 10); };
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    return absl::FailedPreconditionError(absl::StrCat("the NVIDIA driver is for CUDA ", version(driver),
                                                      ", this build needs ", version(CUDART_VERSION),
                                                      "; install a newer driver, or use device cpu"));
  }
  if (error != cudaSuccess || count == 0) {
    return absl::FailedPreconditionError(absl::StrCat("no GPU can be used: ", cudaGetErrorString(error),
                                                      "; see nvidia-smi and CUDA_VISIBLE_DEVICES, or use device cpu"));
  }
  if (device_index >= count) {
    return absl::FailedPreconditionError(
        absl::StrCat("GPU ", device_index, " is asked for, but ", count, " are visible; see CUDA_VISIBLE_DEVICES"));
  }
  int major = 0, minor = 0;
  RETURN_IF_ERROR(CudaStatus(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_index),
                             "reading the GPU's compute capability"));
  RETURN_IF_ERROR(CudaStatus(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device_index),
                             "reading the GPU's compute capability"));
  if (major != 9 || minor != 0) {
    return absl::FailedPreconditionError(absl::StrCat("GPU ", device_index, " has compute capability ", major, ".",
                                                      minor,
                                                      ", this build's kernels are for 9.0 (H100, H200); use "
                                                      "device cpu"));
  }
  return absl::OkStatus();
}

int NumCudaDevices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string CudaNumericsName() { return "CUDA sm_90a, BF16 products, F16 KV"; }

int64_t CudaKvBytesPerBlock(const ModelConfig& config, const RankShard& shard, int block_size) {
  const kernels::DeviceKvLayout layout{.num_blocks = 1,
                                       .block_size = block_size,
                                       .num_kv_heads = static_cast<int>(shard.kv_heads.size()),
                                       .head_dim = config.head_dim};
  return 2 * layout.bytes() * config.num_layers;
}

absl::StatusOr<int64_t> CudaKvBytesAvailable(const CudaOpsOptions& options, double memory_utilization) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(options.device_index), "choosing the GPU"));
  size_t free_bytes = 0, total_bytes = 0;
  RETURN_IF_ERROR(CudaStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "reading the GPU's memory"));
  const int64_t weights = options.matrices->bytes();
  const int64_t activations = CudaStepSizes(options).bytes();
  const int64_t budget = static_cast<int64_t>(memory_utilization * static_cast<double>(total_bytes));
  const int64_t of_budget = budget - weights - activations - kCudaReserveBytes;
  const int64_t of_free = static_cast<int64_t>(free_bytes) - activations - kCudaReserveBytes;
  const int64_t available = std::min(of_budget, of_free);
  if (available > 0) return available;
  return absl::ResourceExhaustedError(absl::StrCat(
      "nothing is left of GPU ", options.device_index, " for keys and values: gpu_memory_utilization ",
      memory_utilization, " of ", total_bytes >> 20, " MiB is ", budget >> 20, " MiB; weights take ", weights >> 20,
      ", activations of ", options.max_step_tokens, " rows ", activations >> 20, ", the reserve ",
      kCudaReserveBytes >> 20, "; ", free_bytes >> 20,
      " MiB are free now. Raise gpu_memory_utilization, lower max_step_tokens or max_model_len, or free the GPU"));
}

}  // namespace outrider
