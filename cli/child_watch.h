// ChildWatch says whether one child process still does anything, from the answers to its health page. A process that
// was killed is known by its end; this is for those that are stopped, hang, or say themselves that they do.
//
// Thread safety: none. Pure: time is an argument.
#pragma once

#include <optional>

#include "base/clock.h"

namespace outrider {

class ChildWatch {
 public:
  struct Options {
    // Without an answer, or with bad ones, for so long a process hangs. It is asked a few times within.
    Duration silence_max = std::chrono::milliseconds(2500);
    // A process has so long for its first answer.
    Duration start_max = std::chrono::seconds(30);
  };
  enum class Answer {
    kNone,     // or not in time
    kNotLive,  // its loop does not turn, it says
    kLive,     // but takes no work
    kReady,
  };

  ChildWatch(const Options& options, TimePoint started) : options_(options), good_at_(started), looked_at_(started) {}

  // What came of asking, as of `now`. To be called a few times a silence_max: after a longer pause the watcher itself
  // stood still, and the child's time begins anew.
  void Heard(Answer answer, TimePoint now);

  bool Hangs() const { return hangs_; }
  // It has said something good at least once: it is past its start.
  bool answered() const { return answered_; }
  // It has been ready without a break since then; nothing while it is not.
  std::optional<TimePoint> ready_since() const { return ready_since_; }

 private:
  const Options options_;
  TimePoint good_at_;
  TimePoint looked_at_;
  bool answered_ = false;
  bool hangs_ = false;
  std::optional<TimePoint> ready_since_;
};

}  // namespace outrider
