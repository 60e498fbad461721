// How far a rank is: the last step it finished and the one under way. Written by the thread that runs steps, read by
// those that watch it.
//
// Thread safety: Began and Finished from one thread at a time; Now from any.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/ids.h"  // StepId

namespace outrider {

class StepProgress {
 public:
  struct Snapshot {
    uint64_t last_step = 0;       // finished
    uint64_t step_under_way = 0;  // the latest that began, while it is not finished; 0: none
  };

  void Began(StepId step) { began_.store(step.value, std::memory_order_relaxed); }
  void Finished(StepId step) { finished_.store(step.value, std::memory_order_relaxed); }

  Snapshot Now() const {
    const uint64_t finished = finished_.load(std::memory_order_relaxed);
    const uint64_t began = began_.load(std::memory_order_relaxed);
    return {.last_step = finished, .step_under_way = began > finished ? began : 0};
  }

 private:
  std::atomic<uint64_t> began_{0};
  std::atomic<uint64_t> finished_{0};
};

}  // namespace outrider
