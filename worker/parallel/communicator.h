// Communicator joins the ranks of a target group: the collectives of tensor parallelism, and nothing else.
//
// Every rank calls the same collectives in the same order. Sums are taken in rank order for every element, wherever it
// lies in the buffer, so results are bitwise equal on all ranks and do not depend on the number of rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace outrider {

// Thread safety: collectives from one thread of each rank; Abort from any.
// Errors: UNAVAILABLE when a peer is lost or stalled beyond the bound given at creation; the communicator is then dead.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int world_size() const = 0;

  // data[i] = ((data[i] of rank 0 + data[i] of rank 1) + ...), in fp32, added in rank order. In place.
  virtual absl::Status AllReduceSum(float* data, int64_t count) = 0;

  // receive[offset of r ...] = what rank r sends; sizes may differ between ranks: `bytes_of_rank` has world_size
  // entries, equal on every rank; the own one is the number of bytes at `send`. `send` may not overlap `receive`.
  virtual absl::Status AllGather(const void* send, const int64_t* bytes_of_rank, void* receive) = 0;

  // data of `root` reaches every rank. The size is the same on all ranks.
  virtual absl::Status Broadcast(void* data, int64_t bytes, int root) = 0;

  // Waits, asleep and without a bound in time, until `peer` is in (or past) its next collective. For followers of an
  // idle group; a dead peer and Abort end it as they end a collective. No collective itself: others need not take part.
  virtual absl::Status AwaitPeer(int peer) = 0;

  // Makes every present and future call of every rank return UNAVAILABLE with `reason`, within the bound.
  virtual void Abort(const char* reason) = 0;
};

}  // namespace outrider
