// StarCommunicator: collectives over a stream of bytes between rank 0 and each other rank, for ranks of several hosts.
//
// In a collective every rank sends its part to rank 0, which puts the parts together, in rank order, and sends the
// result to all: a round trip, and all traffic of the group at rank 0. Each message begins with the number and kind of
// its collective, so that ranks which run apart are found at once. Large ones go in pieces of kStarPieceBytes, several
// under way at a time.
//
// AwaitPeer on a rank above 0 is for rank 0 only, the one that it hears.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "worker/parallel/byte_link.h"
#include "worker/parallel/communicator.h"

namespace outrider {

inline constexpr int64_t kStarPieceBytes = 256 << 10;

// Rank 0's; links[r] is to rank r, links[0] null. `timeout` bounds the wait for a peer within a collective, twice as
// much on the other ranks, which wait for whom rank 0 waits for.
std::unique_ptr<Communicator> MakeStarCentre(std::vector<std::shared_ptr<ByteLink>> links, Duration timeout);

// Of rank 1 <= rank < world_size; `link` is to rank 0.
std::unique_ptr<Communicator> MakeStarPoint(std::shared_ptr<ByteLink> link, int rank, int world_size, Duration timeout);

}  // namespace outrider
