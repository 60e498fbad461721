// Time of a sum over ranks with residual and RMSNorm, one process a GPU, by number of rows: our kernel in a CUDA graph
// of many, each way of exchange, with and without the norm; and beside it, in the same run, NCCL's all-reduce of the
// same bf16 rows (which adds no residual and norms nothing).
//
//   all_reduce_device_bench [RANKS] [HIDDEN_SIZE]        2 and 4096 if not given; prints one JSON line a case
//
// A sample is one graph of kCalls calls, divided by kCalls: median, 10th and 90th percentile over kSamples samples.
#include <dlfcn.h>
#if __has_include(<nccl.h>)
#include <nccl.h>
#endif
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/model/cuda_all_reduce.h"
#include "worker/model/kernel_status.h"
#include "worker/parallel/shm_communicator.h"

namespace outrider {
namespace {

constexpr int kCalls = 64, kSamples = 60, kRowsMax = 2048;
constexpr int kRows[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048};

absl::Status Meet(Communicator& communicator) {
  char own = 0;
  const std::vector<int64_t> ones(static_cast<size_t>(communicator.world_size()), 1);
  std::string all(ones.size(), '-');
  return communicator.AllGather(&own, ones.data(), all.data());
}

class Bench {
 public:
  Bench(Communicator& communicator, int size) : communicator_(communicator), size_(size) {}

  absl::Status Run() {
    const int rank = communicator_.rank();
    ASSIGN_OR_RETURN(all_reduce_, CudaAllReduce::Create({.communicator = &communicator_,
                                                         .device_index = rank,
                                                         .size = size_,
                                                         .rows_max = kRowsMax,
                                                         .transport = DeviceTransport::kPeer}));
    RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"));
    const int64_t count = int64_t{kRowsMax} * size_;
    ASSIGN_OR_RETURN(part_, CudaMemory::Allocate(CudaMemoryKind::kDevice, count * 2, "part"));
    ASSIGN_OR_RETURN(hidden_, CudaMemory::Allocate(CudaMemoryKind::kDevice, count * 4, "hidden"));
    ASSIGN_OR_RETURN(normed_, CudaMemory::Allocate(CudaMemoryKind::kDevice, count * 2, "normed"));
    ASSIGN_OR_RETURN(weight_, CudaMemory::Allocate(CudaMemoryKind::kDevice, size_ * 4, "weight"));
    for (const int num_rows : kRows) {
      RETURN_IF_ERROR(Measure(num_rows, "fused", /*norm=*/true, kernels::DeviceAllReduceWay::kAuto));
      RETURN_IF_ERROR(Measure(num_rows, "sum only", /*norm=*/false, kernels::DeviceAllReduceWay::kAuto));
      if (num_rows >= 32 && num_rows <= kernels::kFlaggedRowsMax) {
        RETURN_IF_ERROR(Measure(num_rows, "fused, bulk", /*norm=*/true, kernels::DeviceAllReduceWay::kBulk));
      }
    }
    return MeasureNccl();
  }

 private:
  template <typename Queue>
  absl::Status Time(int num_rows, const std::string& what, int calls, const Queue& queue) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    RETURN_IF_ERROR(CudaStatus(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture"));
    for (int i = 0; i < calls; ++i) RETURN_IF_ERROR(queue());
    RETURN_IF_ERROR(CudaStatus(cudaStreamEndCapture(stream_, &graph), "capture"));
    RETURN_IF_ERROR(CudaStatus(cudaGraphInstantiate(&executable, graph, 0), "graph"));
    cudaGraphDestroy(graph);
    cudaEvent_t start, stop;
    RETURN_IF_ERROR(CudaStatus(cudaEventCreate(&start), "event"));
    RETURN_IF_ERROR(CudaStatus(cudaEventCreate(&stop), "event"));
    std::vector<double> times;
    for (int i = 0; i < kSamples + 5; ++i) {
      RETURN_IF_ERROR(Meet(communicator_));
      // A graph ahead of the one that is timed brings the ranks together.
      RETURN_IF_ERROR(CudaStatus(cudaGraphLaunch(executable, stream_), "graph"));
      RETURN_IF_ERROR(CudaStatus(cudaEventRecord(start, stream_), "event"));
      RETURN_IF_ERROR(CudaStatus(cudaGraphLaunch(executable, stream_), "graph"));
      RETURN_IF_ERROR(CudaStatus(cudaEventRecord(stop, stream_), "event"));
      RETURN_IF_ERROR(all_reduce_->Wait(stream_));
      float ms = 0;
      RETURN_IF_ERROR(CudaStatus(cudaEventElapsedTime(&ms, start, stop), "event"));
      if (i >= 5) times.push_back(ms * 1e3 / calls);
    }
    cudaGraphExecDestroy(executable);
    std::sort(times.begin(), times.end());
    const auto at = [&](double q) { return times[static_cast<size_t>(q * static_cast<double>(times.size() - 1))]; };
    if (communicator_.rank() != 0) return absl::OkStatus();
    const nlohmann::ordered_json json = {{"what", what},         {"ranks", communicator_.world_size()},
                                         {"rows", num_rows},     {"bytes_bf16", int64_t{num_rows} * size_ * 2},
                                         {"median_us", at(0.5)}, {"p10_us", at(0.1)},
                                         {"p90_us", at(0.9)}};
    std::cout << json.dump() << std::endl;
    return absl::OkStatus();
  }

  absl::Status Measure(int num_rows, const char* what, bool norm, kernels::DeviceAllReduceWay way) {
    return Time(num_rows, what, num_rows > 256 ? 16 : kCalls, [&] {
      return all_reduce_->Sum({.part = part_.data<uint16_t>(),
                               .part_stride = size_,
                               .hidden = hidden_.data<float>(),
                               .hidden_stride = size_,
                               .norm_weight = norm ? weight_.data<float>() : nullptr,
                               .normed = normed_.data<uint16_t>(),
                               .normed_stride = size_,
                               .num_rows = num_rows,
                               .size = size_},
                              stream_, way);
    });
  }

#if __has_include(<nccl.h>)
  absl::Status MeasureNccl() {
    ::setenv("NCCL_NVLS_ENABLE", "0", 1);  // as nccl_communicator.cc
    void* const library = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    bool has_library = library != nullptr;
    for (int rank = 0; rank < communicator_.world_size(); ++rank) {
      bool has = has_library;
      RETURN_IF_ERROR(communicator_.Broadcast(&has, 1, rank));
      has_library = has_library && has;
    }
    if (!has_library) {
      if (communicator_.rank() == 0) std::cerr << "NCCL is not measured: a rank has no libnccl.so.2" << std::endl;
      return absl::OkStatus();
    }
    const auto get_id = reinterpret_cast<decltype(&ncclGetUniqueId)>(::dlsym(library, "ncclGetUniqueId"));
    const auto init = reinterpret_cast<decltype(&ncclCommInitRank)>(::dlsym(library, "ncclCommInitRank"));
    const auto reduce = reinterpret_cast<decltype(&ncclAllReduce)>(::dlsym(library, "ncclAllReduce"));
    const auto check = [](ncclResult_t result, const char* what) {
      return result == ncclSuccess ? absl::OkStatus()
                                   : absl::InternalError(absl::StrCat(what, ": NCCL error ", int{result}));
    };
    ncclUniqueId id{};
    if (communicator_.rank() == 0) RETURN_IF_ERROR(check(get_id(&id), "id"));
    RETURN_IF_ERROR(communicator_.Broadcast(&id, sizeof(id), 0));
    ncclComm_t nccl = nullptr;
    RETURN_IF_ERROR(check(init(&nccl, communicator_.world_size(), id, communicator_.rank()), "meeting"));
    for (const int num_rows : kRows) {
      const size_t count = static_cast<size_t>(num_rows) * static_cast<size_t>(size_);
      RETURN_IF_ERROR(Time(num_rows, "NCCL all-reduce", num_rows > 256 ? 16 : kCalls, [&] {
        return check(reduce(part_.data(), part_.data(), count, ncclBfloat16, ncclSum, nccl, stream_), "all-reduce");
      }));
    }
    return absl::OkStatus();
  }
#else
  absl::Status MeasureNccl() { return absl::OkStatus(); }
#endif

  Communicator& communicator_;
  const int size_;
  std::unique_ptr<CudaAllReduce> all_reduce_;
  cudaStream_t stream_ = nullptr;
  CudaMemory part_, hidden_, normed_, weight_;
};

int Main(int argc, char** argv) {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  const int size = argc > 2 ? std::atoi(argv[2]) : 4096;
  int ends[2];
  CHECK(ranks >= 2 && ranks <= kernels::kDeviceRanksMax && size % 64 == 0 && ::pipe(ends) == 0);
  const auto run = [&](absl::StatusOr<std::unique_ptr<Communicator>> communicator) {
    const absl::Status status = communicator.ok() ? Bench(**communicator, size).Run() : communicator.status();
    if (!status.ok()) std::cerr << status << std::endl;
    std::cout.flush();
    ::_exit(status.ok() ? 0 : 1);
  };
  constexpr Duration kPatience = std::chrono::seconds(30);
  if (::fork() == 0) {
    auto rendezvous = ShmRendezvous::Listen(ranks, 1);
    CHECK(rendezvous.ok());
    const std::string& name = (*rendezvous)->socket_name();
    CHECK(::write(ends[1], name.data(), name.size()) == static_cast<ssize_t>(name.size()));
    run((*rendezvous)->AwaitRanks(kPatience));
  }
  char name[256];
  const ssize_t length = ::read(ends[0], name, sizeof(name));
  CHECK(length > 0);
  for (int rank = 1; rank < ranks; ++rank) {
    if (::fork() == 0) run(AttachShm(std::string(name, static_cast<size_t>(length)), rank, ranks, 1, kPatience));
  }
  int status = 0, failed = 0;
  while (::wait(&status) > 0) failed |= status;
  return failed != 0;
}

}  // namespace
}  // namespace outrider

int main(int argc, char** argv) { return outrider::Main(argc, argv); }
