// BroadcastBlob: bytes whose size only the root knows, over any Communicator.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "worker/parallel/communicator.h"

namespace outrider {

// Greatest blob: far beyond a plan that starts a full batch of the longest prompts (64 x 128k tokens x 4 bytes = 32
// MiB), far below what would hurt a host.
inline constexpr int64_t kMaxBlobBytes = int64_t{64} << 20;

// Every rank calls it with the same root; afterwards *blob on every rank is the root's. A small blob (a decode step's
// plan) takes one collective, a larger one two. The capacity of *blob is kept, so a string used again does not
// allocate.
//
// Errors: RESOURCE_EXHAUSTED on the root for a blob beyond kMaxBlobBytes (nothing is sent, the communicator goes on);
// INTERNAL where a received size is beyond it; else as Communicator.
absl::Status BroadcastBlob(Communicator& communicator, std::string* blob, int root);

}  // namespace outrider
