// A fast 128-bit hash of a file's content, to tell models apart. Not against malice: two files that were made to
// collide would.
#pragma once

#include <cstddef>
#include <string>

#include "absl/types/span.h"
#include "kernels/common/thread_pool.h"

namespace outrider {

// 32 hexadecimal digits. Independent of the number of threads. Reads some 10 GB/s a thread.
std::string ContentHash(absl::Span<const std::byte> bytes, kernels::ThreadPool& pool);

}  // namespace outrider
