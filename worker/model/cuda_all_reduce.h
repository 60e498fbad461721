// CudaAllReduce joins the GPUs of a group: how they came together, and the sums at the end of row-parallel products
// (kernels/collective/device_all_reduce.h).
//
// Coming together, over the group's communicator: every rank makes a buffer and shows its card; each maps the others'
// buffers and says what came of it; if all could, sums go through peer memory. Otherwise rank 0 draws an NCCL id and
// the ranks meet there: parts are exchanged whole, then added in the same order, with the same bits.
//
// A peer that dies or stands still ends the wait within `wait_max`, on the GPU by its clock or here by aborting NCCL.
// The group's communicator is then aborted: its other waits end, and so does the epoch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/collective/device_all_reduce.h"
#include "worker/model/cuda_memory.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/device_transport.h"

namespace outrider {

// Within a step ranks are apart by less than a millisecond; a rank that makes its first graphs by some hundred. The
// group's end must be known within 5 s.
inline constexpr Duration kDeviceWaitMax = std::chrono::seconds(4);

// Thread safety: none; one thread runs the steps.
class CudaAllReduce {
 public:
  struct Options {
    Communicator* communicator = nullptr;  // outlives the result
    int device_index = 0;
    int size = 0;  // elements of a row
    int rows_max = 0;
    DeviceTransport transport = DeviceTransport::kAuto;
    Duration wait_max = kDeviceWaitMax;
  };

  // A collective: every rank calls it. Errors: those of the communicator and of ChooseTransport, RESOURCE_EXHAUSTED,
  // UNIMPLEMENTED for more ranks or larger rows than there are kernels for.
  static absl::StatusOr<std::unique_ptr<CudaAllReduce>> Create(const Options& options);
  // Device memory that Create takes; nothing for one rank.
  static int64_t Bytes(int size, int rows_max, int num_ranks);

  virtual ~CudaAllReduce() = default;
  virtual DeviceTransport transport() const = 0;
  // Whether Sum may be captured into a graph.
  virtual bool capturable() const = 0;

  // Queues args.hidden += sum of args.part over the ranks, and the norm if there are weights; `peers` and `gathered` of
  // `args` are filled in here. num_rows <= rows_max. `way` is for benches.
  virtual absl::Status Sum(kernels::DeviceAllReduceArgs args, cudaStream_t stream,
                           kernels::DeviceAllReduceWay way = kernels::DeviceAllReduceWay::kAuto) = 0;

  // Waits for all that is in the stream, with a bound if a sum may be held up by a peer. UNAVAILABLE naming the peer
  // that did not come; what was computed is then worth nothing.
  virtual absl::Status Wait(cudaStream_t stream) = 0;
};

}  // namespace outrider
