// The GPU backend of a build without CUDA.
#include "worker/model/cuda_backend.h"

namespace outrider {
namespace {

absl::Status Absent() {
  return absl::UnimplementedError(
      "this build has no CUDA; use device cpu or auto, or a build that was made with --config=cuda");
}

}  // namespace

absl::Status CheckCuda(int) { return Absent(); }
int NumCudaDevices() { return 0; }
absl::StatusOr<double> CudaReadBandwidth(int) { return Absent(); }
absl::StatusOr<CudaLoadResult> LoadCudaWeights(const CudaLoadOptions&) { return Absent(); }
std::string CudaNumericsName() { return "no CUDA"; }
int64_t CudaKvBytesPerBlock(const ModelConfig&, const RankShard&, int) { return 1; }
absl::StatusOr<int64_t> CudaKvBytesAvailable(const CudaOpsOptions&, double) { return Absent(); }
absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(const CudaOpsOptions&) { return Absent(); }

}  // namespace outrider
