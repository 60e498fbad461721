// What this machine's memory gives to readers: the limit of a step that reads all weights once.
#pragma once

#include "absl/status/statusor.h"

namespace outrider {

// Bytes a second that `num_threads` threads read from memory, one word a cache line of more memory than caches hold:
// the best of five passes. RESOURCE_EXHAUSTED if that memory (512 MiB) can not be had.
absl::StatusOr<double> ReadBandwidth(int num_threads);

}  // namespace outrider
