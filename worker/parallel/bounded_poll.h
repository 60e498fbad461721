// BoundedPoll waits for something that can only be asked: with a bound in time, and pauses that grow.
//
// Time and sleep are arguments. Thread safety: that of what it is given.
#pragma once

#include <algorithm>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"

namespace outrider {

struct PollPauses {
  Duration first = std::chrono::microseconds(50);
  Duration longest = std::chrono::milliseconds(5);
};

// Asks `is_done` () -> absl::StatusOr<bool> until it says true (OK) or an error (that error), pausing by
// `pause` (Duration), each twice as long as the one before, up to pauses.longest. Asked once more at `bound`, then
// DEADLINE_EXCEEDED naming `what`. A bound of zero or less asks once.
template <typename IsDone, typename Pause>
absl::Status BoundedPoll(const Clock& clock, Duration bound, absl::string_view what, const IsDone& is_done,
                         const Pause& pause, const PollPauses& pauses = {}) {
  const TimePoint deadline = clock.Now() + bound;
  Duration next = pauses.first;
  for (;;) {
    const absl::StatusOr<bool> done = is_done();
    if (!done.ok()) return done.status();
    if (*done) return absl::OkStatus();
    const TimePoint now = clock.Now();
    if (now >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(what, " took more than ", static_cast<int64_t>(ToMillis(bound)), " ms"));
    }
    pause(std::min(next, Duration(deadline - now)));
    next = std::min(2 * next, pauses.longest);
  }
}

}  // namespace outrider
