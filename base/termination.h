// How a serving process hears that it should end: SIGTERM and SIGINT, taken by a thread of their own.
//
// The first signal runs what OnSignal was given last; before anything was given it ends the process at once with code
// 0, as nothing is being served yet. A second one, not sooner than kSameSignalBound after the first, ends the process
// at once with code 130.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "base/clock.h"

namespace outrider {

// A signal to end that comes within so long of the first is the same one: `timeout`, and a terminal's Ctrl-C, send
// theirs to the process and to its group.
inline constexpr Duration kSameSignalBound = std::chrono::milliseconds(500);

// One a process, made before other threads start: they inherit that the signals are blocked.
//
// Thread safety: all methods, from any thread.
class TerminationWatcher {
 public:
  explicit TerminationWatcher(Duration same_signal_bound = kSameSignalBound);
  // Signals are left to the next watcher; they stay blocked.
  ~TerminationWatcher();
  TerminationWatcher(const TerminationWatcher&) = delete;
  TerminationWatcher& operator=(const TerminationWatcher&) = delete;

  // `action` runs on the watcher's thread, in place of what was given before, which is not running any more when this
  // returns. Not to be called from an action.
  void OnSignal(std::function<void()> action);

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace outrider
