#include "base/scheduling.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace outrider {
namespace {

constexpr Duration kShortestSlice = std::chrono::microseconds(100);  // what the kernel clamps to

// struct sched_attr of <linux/sched/types.h>, which does not go together with glibc's <sched.h>.
struct Attributes {
  uint32_t size = sizeof(Attributes);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime_ns = 0;  // under SCHED_OTHER: the slice; 0: the system's own
  uint64_t deadline_ns = 0;
  uint64_t period_ns = 0;
};

bool Get(Attributes& attributes) { return ::syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) == 0; }

}  // namespace

bool UseShortSlices() {
  Attributes attributes;
  // Whoever was given another policy keeps it.
  if (!Get(attributes) || attributes.policy != SCHED_OTHER) return false;
  attributes.runtime_ns = static_cast<uint64_t>(std::chrono::nanoseconds(kShortestSlice).count());
  if (::syscall(SYS_sched_setattr, 0, &attributes, 0) != 0) return false;
  return RequestedSlice() == kShortestSlice;
}

Duration RequestedSlice() {
  Attributes attributes;
  if (!Get(attributes) || attributes.policy != SCHED_OTHER) return Duration::zero();
  return std::chrono::duration_cast<Duration>(std::chrono::nanoseconds(attributes.runtime_ns));
}

}  // namespace outrider
