#include "worker/model/cuda_all_reduce.h"

#include <sys/random.h>

#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/model/kernel_status.h"
#include "worker/parallel/bounded_poll.h"
#include "worker/parallel/broadcast_blob.h"
#include "worker/parallel/nccl_communicator.h"

namespace outrider {
namespace {

using kernels::DeviceAllReduceArgs;
using kernels::DevicePeers;
using kernels::DeviceWaitReport;

// Of this process, for as long as it lives.
uint64_t ProcessNumber() {
  static const uint64_t number = [] {
    uint64_t drawn = 0;
    CHECK(::getrandom(&drawn, sizeof(drawn), 0) == sizeof(drawn));
    return drawn;
  }();
  return number;
}

std::array<uint8_t, 40> HostName() {
  std::array<uint8_t, 40> host{};
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  std::memcpy(host.data(), boot_id.data(), std::min(boot_id.size(), host.size()));
  return host;
}

// One T of each rank, by rank.
template <typename T>
absl::StatusOr<std::vector<T>> GatherEach(Communicator& communicator, const T& own) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> all(static_cast<size_t>(communicator.world_size()));
  const std::vector<int64_t> bytes(all.size(), sizeof(T));
  RETURN_IF_ERROR(communicator.AllGather(&own, bytes.data(), all.data()));
  return all;
}

class AllReduce final : public CudaAllReduce {
 public:
  explicit AllReduce(const Options& options)
      : options_(options),
        communicator_(*options.communicator),
        rank_(communicator_.rank()),
        world_size_(communicator_.world_size()) {}

  ~AllReduce() override {
    cudaSetDevice(options_.device_index);
    for (void* mapped : opened_) cudaIpcCloseMemHandle(mapped);
  }

  absl::Status Init() {
    if (world_size_ > kernels::kDeviceRanksMax || options_.size > kernels::kAllReduceSizeMax) {
      return absl::UnimplementedError(absl::StrCat("a group of ", world_size_, " GPUs with rows of ", options_.size,
                                                   " elements; there are kernels for ", kernels::kDeviceRanksMax,
                                                   " GPUs and ", kernels::kAllReduceSizeMax, " elements"));
    }
    ASSIGN_OR_RETURN(report_, CudaMemory::Allocate(CudaMemoryKind::kPinned, sizeof(DeviceWaitReport), "wait report"));
    ASSIGN_OR_RETURN(counters_,
                     CudaMemory::Allocate(CudaMemoryKind::kDevice,
                                          static_cast<int64_t>(kernels::DeviceAllReduceCounters()) * 4, "counters"));
    DeviceCard card;
    RETURN_IF_ERROR(MakeCard(&card));
    ASSIGN_OR_RETURN(const std::vector<DeviceCard> cards, GatherEach(communicator_, card));
    RETURN_IF_ERROR(CheckCards(cards));

    const absl::Status mapped = options_.transport == DeviceTransport::kNccl ? absl::OkStatus()  // not asked for
                                                                             : MapPeers(cards);
    // Asked only where it matters: loading the library takes a second.
    const bool wants_nccl =
        options_.transport == DeviceTransport::kNccl || (options_.transport == DeviceTransport::kAuto && !mapped.ok());
    const TransportReport report =
        TransportReport::Make(mapped, wants_nccl ? NcclCommunicator::Available() : absl::OkStatus());
    ASSIGN_OR_RETURN(const std::vector<TransportReport> reports, GatherEach(communicator_, report));
    ASSIGN_OR_RETURN(transport_, ChooseTransport(options_.transport, reports));
    if (transport_ == DeviceTransport::kNccl) RETURN_IF_ERROR(MeetOverNccl());

    peers_.rank = rank_;
    peers_.num_ranks = world_size_;
    peers_.counters = counters_.data<uint32_t>();
    peers_.report = report_.data<DeviceWaitReport>();
    peers_.wait_ns = static_cast<uint64_t>(std::chrono::nanoseconds(options_.wait_max).count());
    if (rank_ == 0) {
      LogInfo("GPUs of ", world_size_, " ranks exchange ",
              transport_ == DeviceTransport::kPeer ? "through each other's memory" : "by NCCL");
    }
    return absl::OkStatus();
  }

  DeviceTransport transport() const override { return transport_; }
  bool capturable() const override { return transport_ == DeviceTransport::kPeer; }

  absl::Status Sum(DeviceAllReduceArgs args, cudaStream_t stream, kernels::DeviceAllReduceWay way) override {
    CHECK(args.num_rows <= options_.rows_max);
    args.peers = peers_;
    if (transport_ == DeviceTransport::kNccl) {
      const int64_t elements = args.num_rows * args.part_stride;
      CHECK(world_size_ * elements * 2 <= gathered_.bytes());
      RETURN_IF_ERROR(nccl_->AllGather(args.part, gathered_.data(), elements * 2, stream));
      args.gathered = gathered_.data<uint16_t>();
      args.gathered_stride = elements;
    }
    return KernelStatus(kernels::DeviceAllReduce(args, stream, way), "sum over ranks");
  }

  absl::Status Wait(cudaStream_t stream) override {
    absl::Status status;
    if (transport_ == DeviceTransport::kPeer) {
      status = CudaStatus(cudaStreamSynchronize(stream), "step");
      if (status.ok()) status = PeersCame();
    } else {
      status = WaitForNccl(stream);
    }
    if (!status.ok()) communicator_.Abort(std::string(status.message()).c_str());
    return status;
  }

 private:
  absl::Status MakeCard(DeviceCard* card) {
    cudaDeviceProp properties;
    RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, options_.device_index), "reading the GPU"));
    std::memcpy(card->gpu.data(), &properties.uuid, card->gpu.size());
    card->host = HostName();
    card->process = ProcessNumber();
    card->device_index = options_.device_index;
    const int64_t wanted = static_cast<int64_t>(kernels::DeviceAllReduceBufferBytes(options_.size, world_size_));
    // Memory is given out in units of 2 MiB: a buffer that fills its own shares none with others when it is mapped.
    const int64_t bytes = (wanted + (2 << 20) - 1) / (2 << 20) * (2 << 20);
    ASSIGN_OR_RETURN(buffer_, CudaMemory::Allocate(CudaMemoryKind::kDevice, bytes, "exchange between ranks"));
    card->buffer_bytes = bytes;
    card->buffer_address = reinterpret_cast<uint64_t>(buffer_.data());
    cudaIpcMemHandle_t handle;
    static_assert(sizeof(handle) == sizeof(card->handle));
    // What can not be shared with other processes may do within this one: then nobody opens the handle.
    if (cudaIpcGetMemHandle(&handle, buffer_.data()) == cudaSuccess) {
      std::memcpy(card->handle.data(), &handle, sizeof(handle));
    } else {
      (void)cudaGetLastError();
    }
    return absl::OkStatus();
  }

  absl::Status MapPeers(const std::vector<DeviceCard>& cards) {
    for (int peer = 0; peer < world_size_; ++peer) {
      absl::StatusOr<void*> mapped = Map(cards, peer);
      if (!mapped.ok()) {
        return absl::Status(mapped.status().code(),
                            absl::StrCat("memory of rank ", peer, ": ", mapped.status().message()));
      }
      peers_.buffers[peer] = *mapped;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<void*> Map(const std::vector<DeviceCard>& cards, int peer) {
    const DeviceCard& card = cards[peer];
    switch (ReachOf(cards, rank_, peer)) {
      case PeerReach::kSelf:
        return buffer_.data();
      case PeerReach::kNone:
        return absl::FailedPreconditionError("it is on another host");
      case PeerReach::kProcess: {
        if (card.device_index != options_.device_index) {
          const cudaError_t error = cudaDeviceEnablePeerAccess(card.device_index, 0);
          (void)cudaGetLastError();
          if (error != cudaErrorPeerAccessAlreadyEnabled) RETURN_IF_ERROR(CudaStatus(error, "peer access"));
        }
        return reinterpret_cast<void*>(card.buffer_address);
      }
      case PeerReach::kHost:
        break;
    }
    cudaIpcMemHandle_t handle;
    std::memcpy(&handle, card.handle.data(), sizeof(handle));
    void* mapped = nullptr;
    const cudaError_t error = cudaIpcOpenMemHandle(&mapped, handle, cudaIpcMemLazyEnablePeerAccess);
    (void)cudaGetLastError();
    RETURN_IF_ERROR(CudaStatus(error, "mapping another process's memory"));
    opened_.push_back(mapped);
    return mapped;
  }

  absl::Status MeetOverNccl() {
    // An empty id says that rank 0 could not draw one.
    std::string id;
    absl::Status drawn;
    if (rank_ == 0) {
      absl::StatusOr<std::string> made = NcclCommunicator::NewId();
      if (made.ok()) id = *std::move(made);
      drawn = made.status();
    }
    RETURN_IF_ERROR(BroadcastBlob(communicator_, &id, 0));
    RETURN_IF_ERROR(drawn);
    if (id.empty()) return absl::UnavailableError("rank 0 could not draw an NCCL id");
    ASSIGN_OR_RETURN(nccl_, NcclCommunicator::Create({.id = id, .rank = rank_, .world_size = world_size_}));
    // Parts of whole rows, of every rank.
    ASSIGN_OR_RETURN(gathered_, CudaMemory::Allocate(CudaMemoryKind::kDevice, GatheredBytes(), "parts of all ranks"));
    return absl::OkStatus();
  }

  int64_t GatheredBytes() const {
    return int64_t{world_size_} * options_.rows_max * ((options_.size + 63) / 64 * 64) * 2;
  }

  absl::Status PeersCame() const {
    const volatile DeviceWaitReport& report = *report_.data<DeviceWaitReport>();
    if (report.gave_up == 0) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("rank ", rank_, " waited more than ",
                                               static_cast<int64_t>(ToMillis(options_.wait_max)), " ms for rank ",
                                               uint32_t{report.peer}, " in a sum over ranks (row ",
                                               uint32_t{report.row}, ", call ", uint32_t{report.call}, ")"));
  }

  // The GPU would wait for ever: the bound is kept here.
  absl::Status WaitForNccl(cudaStream_t stream) {
    const absl::Status status = BoundedPoll(
        clock_, options_.wait_max, "a step with its sums over ranks by NCCL",
        [&]() -> absl::StatusOr<bool> {
          RETURN_IF_ERROR(nccl_->Check());
          const cudaError_t state = cudaStreamQuery(stream);
          if (state == cudaErrorNotReady) return false;
          RETURN_IF_ERROR(CudaStatus(state, "step"));
          return true;
        },
        [](Duration pause) { std::this_thread::sleep_for(pause); },
        {.first = std::chrono::microseconds(1), .longest = std::chrono::microseconds(20)});
    if (status.ok()) return status;
    nccl_->Abort();
    return absl::UnavailableError(absl::StrCat("rank ", rank_, ": ", status.message()));
  }

  const Options options_;
  Communicator& communicator_;
  const int rank_, world_size_;
  const SystemClock clock_;
  DeviceTransport transport_ = DeviceTransport::kPeer;
  DevicePeers peers_;
  CudaMemory buffer_, counters_, report_, gathered_;
  std::vector<void*> opened_;
  std::unique_ptr<NcclCommunicator> nccl_;
};

}  // namespace

int64_t CudaAllReduce::Bytes(int size, int rows_max, int num_ranks) {
  if (num_ranks <= 1) return 0;
  // With NCCL parts of all ranks lie here in place of nothing; counted in any case, since ranks choose later.
  return static_cast<int64_t>(kernels::DeviceAllReduceBufferBytes(size, num_ranks)) + (2 << 20) +
         int64_t{num_ranks} * rows_max * ((size + 63) / 64 * 64) * 2;
}

absl::StatusOr<std::unique_ptr<CudaAllReduce>> CudaAllReduce::Create(const Options& options) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(options.device_index), "choosing the GPU"));
  auto all_reduce = std::make_unique<AllReduce>(options);
  RETURN_IF_ERROR(all_reduce->Init());
  return std::unique_ptr<CudaAllReduce>(std::move(all_reduce));
}

}  // namespace outrider
