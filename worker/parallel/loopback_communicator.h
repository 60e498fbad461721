// Loopback communicators: the ranks of a group as threads of one process. For tests, and for clusters within one
// process. The same protocol over memory as between processes (region_communicator.h), without the processes.
#pragma once

#include <memory>
#include <vector>

#include "worker/parallel/communicator.h"
#include "worker/parallel/region_communicator.h"  // RegionOptions

namespace outrider {

// One communicator a rank, entry r for rank r; each is used by one thread and destroyed by its owner. A rank that
// destroys its communicator has left: collectives that need it end with UNAVAILABLE on the others.
// REQUIRES: 1 <= world_size <= kMaxRanks.
std::vector<std::unique_ptr<Communicator>> CreateLoopbackCommunicators(int world_size, RegionOptions options = {});

}  // namespace outrider
