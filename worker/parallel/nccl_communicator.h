// NcclCommunicator: NCCL between the GPUs of a group, for those that can not map each other's memory. It only moves
// bytes: NCCL's own reductions add in an order that depends on an element's place, so sums are made by our kernels.
//
// The library is loaded when it is first asked for (libnccl.so.2, by the loader's search path): a build with CUDA runs
// without it where it is not needed. Built against the toolkit's nccl.h; without that header every call says so.
//
// Nothing here waits without a bound: communicators are non-blocking and polled, and what a dead peer holds up is ended
// by Abort. NVLink multicast stays off (NCCL_NVLS_ENABLE=0).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

struct CUstream_st;

namespace outrider {

// Thread safety: one thread; Abort from any.
class NcclCommunicator {
 public:
  struct Options {
    std::string id;  // of NewId on one rank, the same on all
    int rank = 0;
    int world_size = 1;
    Duration timeout = std::chrono::seconds(30);  // for all ranks to meet
  };

  // OK, UNIMPLEMENTED (built without nccl.h) or FAILED_PRECONDITION (no library, or one too old) with the loader's
  // words.
  static absl::Status Available();
  // What ranks find each other by; of one rank, for one Create on each.
  static absl::StatusOr<std::string> NewId();

  // Meets the other ranks on the calling thread's current GPU. Errors: those of Available; DEADLINE_EXCEEDED;
  // UNAVAILABLE with NCCL's words.
  static absl::StatusOr<std::unique_ptr<NcclCommunicator>> Create(const Options& options);
  // Aborts what is under way.
  virtual ~NcclCommunicator() = default;

  // receive[r * bytes ...] = what rank r sends, in the order of the stream. Device memory; `send` may lie at its place
  // in `receive`. UNAVAILABLE with NCCL's words.
  virtual absl::Status AllGather(const void* send, void* receive, int64_t bytes, CUstream_st* stream) = 0;

  // OK, or UNAVAILABLE: why the communicator is broken.
  virtual absl::Status Check() = 0;

  // Ends what is under way on this rank, within kNcclAbortBound.
  virtual void Abort() = 0;
};

inline constexpr Duration kNcclAbortBound = std::chrono::seconds(1);

}  // namespace outrider
