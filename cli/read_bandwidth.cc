#include "cli/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "base/status_macros.h"
#include "kernels/common/thread_pool.h"
#include "worker/model/host_buffer.h"

namespace outrider {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kBytes = int64_t{512} << 20;
constexpr int64_t kLineWords = 8;                // a cache line
constexpr int64_t kGroupWords = 4 * kLineWords;  // read at once
// Words ahead that lines are asked for: measured best of 4, 8 and 16 KiB on a Xeon, 1.4x of a loop that asks for none.
constexpr int64_t kAheadWords = 1024;

uint64_t SumOfLines(const uint64_t* words, int64_t count) {
  uint64_t sums[4] = {};
  for (int64_t i = 0; i < count; i += kGroupWords) {
    for (int64_t j = 0; j < 4; ++j) {
      __builtin_prefetch(words + i + kAheadWords + j * kLineWords);
      sums[j] += words[i + j * kLineWords];
    }
  }
  return sums[0] + sums[1] + sums[2] + sums[3];
}

}  // namespace

absl::StatusOr<double> ReadBandwidth(int num_threads) {
  // Some more than is read, for what is asked for ahead.
  ASSIGN_OR_RETURN(const HostBuffer buffer,
                   HostBuffer::Allocate(kBytes + kAheadWords * 8, "measuring the read bandwidth"));
  std::memset(buffer.data(), 1, static_cast<size_t>(buffer.bytes()));
  const auto* const words = reinterpret_cast<const uint64_t*>(buffer.data());
  kernels::ThreadPool pool(num_threads);
  const int64_t num_groups = kBytes / 8 / kGroupWords;
  std::atomic<uint64_t> sum{0};
  double best_seconds = 1e9;
  for (int i = 0; i < 5; ++i) {
    const Clock::time_point begin = Clock::now();
    pool.ParallelForRange(num_groups, 1 << 13, [&](int64_t first, int64_t end) {
      sum += SumOfLines(words + first * kGroupWords, (end - first) * kGroupWords);
    });
    best_seconds = std::min(best_seconds, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  CHECK(sum == 5 * 0x0101010101010101u * static_cast<uint64_t>(kBytes / 8 / kLineWords));  // every line was read
  return static_cast<double>(kBytes) / best_seconds;
}

}  // namespace outrider
