#include "worker/parallel/nccl_communicator.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

#if __has_include(<nccl.h>)

#include <dlfcn.h>
#include <nccl.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <future>
#include <thread>

#include "worker/parallel/bounded_poll.h"

namespace outrider {
namespace {

// The library's functions, by the header's types.
struct Nccl {
  decltype(&ncclGetVersion) GetVersion = nullptr;
  decltype(&ncclGetUniqueId) GetUniqueId = nullptr;
  decltype(&ncclCommInitRankConfig) CommInitRankConfig = nullptr;
  decltype(&ncclCommGetAsyncError) CommGetAsyncError = nullptr;
  decltype(&ncclCommAbort) CommAbort = nullptr;
  decltype(&ncclAllGather) AllGather = nullptr;
  decltype(&ncclGetErrorString) GetErrorString = nullptr;
  absl::Status status;
};

Nccl Load() {
  Nccl nccl;
  // Before the library reads it: a program that uses multicast can leave the host's GPUs unusable when it dies.
  ::setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/1);
  void* const library = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = ::dlerror();
    nccl.status = absl::FailedPreconditionError(
        absl::StrCat("libnccl.so.2 can not be loaded: ", why != nullptr ? why : "unknown"));
    return nccl;
  }
  const auto find = [&](const char* name, auto* function) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(::dlsym(library, name));
    if (*function == nullptr && nccl.status.ok()) {
      nccl.status = absl::FailedPreconditionError(absl::StrCat("libnccl.so.2 has no ", name, ": it is too old"));
    }
  };
  find("ncclGetVersion", &nccl.GetVersion);
  find("ncclGetUniqueId", &nccl.GetUniqueId);
  find("ncclCommInitRankConfig", &nccl.CommInitRankConfig);
  find("ncclCommGetAsyncError", &nccl.CommGetAsyncError);
  find("ncclCommAbort", &nccl.CommAbort);
  find("ncclAllGather", &nccl.AllGather);
  find("ncclGetErrorString", &nccl.GetErrorString);
  return nccl;
}

const Nccl& Library() {
  static const Nccl* const nccl = new Nccl(Load());
  return *nccl;
}

absl::Status ToStatus(ncclResult_t result, absl::string_view what) {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("NCCL, ", what, ": ", Library().GetErrorString(result)));
}

class Communicator final : public NcclCommunicator {
 public:
  explicit Communicator(const Options& options) : options_(options) {}
  ~Communicator() override { Abort(); }

  absl::Status Meet() {
    ncclUniqueId id;
    if (options_.id.size() != sizeof(id)) {
      return absl::InvalidArgumentError(absl::StrCat("an NCCL id of ", options_.id.size(), " bytes"));
    }
    std::memcpy(&id, options_.id.data(), sizeof(id));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    RETURN_IF_ERROR(ToStatus(
        Library().CommInitRankConfig(&communicator_, options_.world_size, id, options_.rank, &config), "meeting"));
    return Settle(options_.timeout, "meeting the other ranks");
  }

  absl::Status AllGather(const void* send, void* receive, int64_t bytes, CUstream_st* stream) override {
    if (aborted_.load()) return absl::UnavailableError("NCCL was aborted");
    RETURN_IF_ERROR(
        ToStatus(Library().AllGather(send, receive, static_cast<size_t>(bytes), ncclUint8, communicator_, stream),
                 "all-gather"));
    // What follows in the stream must be queued behind it.
    return Settle(options_.timeout, "queueing an all-gather");
  }

  absl::Status Check() override {
    if (aborted_.load()) return absl::UnavailableError("NCCL was aborted");
    ncclResult_t state = ncclSuccess;
    RETURN_IF_ERROR(ToStatus(Library().CommGetAsyncError(communicator_, &state), "asking for errors"));
    return ToStatus(state, "all-gather");
  }

  void Abort() override {
    if (communicator_ == nullptr || aborted_.exchange(true)) return;
    // The library promises no bound, so it is given a thread that may outlast us.
    const auto done = std::make_shared<std::promise<void>>();
    std::future<void> future = done->get_future();
    std::thread([communicator = communicator_, done] {
      Library().CommAbort(communicator);
      done->set_value();
    }).detach();
    future.wait_for(kNcclAbortBound);
  }

 private:
  absl::Status Settle(Duration bound, absl::string_view what) {
    return BoundedPoll(
        clock_, bound, absl::StrCat("NCCL, ", what),
        [&]() -> absl::StatusOr<bool> {
          ncclResult_t state = ncclSuccess;
          RETURN_IF_ERROR(ToStatus(Library().CommGetAsyncError(communicator_, &state), what));
          RETURN_IF_ERROR(ToStatus(state, what));
          return state != ncclInProgress;
        },
        [](Duration pause) { std::this_thread::sleep_for(pause); }, {.first = std::chrono::microseconds(1)});
  }

  const Options options_;
  const SystemClock clock_;
  ncclComm_t communicator_ = nullptr;
  std::atomic<bool> aborted_{false};
};

}  // namespace

absl::Status NcclCommunicator::Available() { return Library().status; }

absl::StatusOr<std::string> NcclCommunicator::NewId() {
  RETURN_IF_ERROR(Available());
  ncclUniqueId id;
  RETURN_IF_ERROR(ToStatus(Library().GetUniqueId(&id), "drawing an id"));
  return std::string(reinterpret_cast<const char*>(&id), sizeof(id));
}

absl::StatusOr<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Create(const Options& options) {
  RETURN_IF_ERROR(Available());
  auto communicator = std::make_unique<Communicator>(options);
  RETURN_IF_ERROR(communicator->Meet());
  return std::unique_ptr<NcclCommunicator>(std::move(communicator));
}

}  // namespace outrider

#else

namespace outrider {
namespace {
absl::Status Absent() { return absl::UnimplementedError("this build was made without NCCL's nccl.h"); }
}  // namespace

absl::Status NcclCommunicator::Available() { return Absent(); }
absl::StatusOr<std::string> NcclCommunicator::NewId() { return Absent(); }
absl::StatusOr<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Create(const Options&) { return Absent(); }

}  // namespace outrider

#endif
