// EventQueue is a simulation's time: actions in the order of their instants, run one by one in one thread. Process is
// who they belong to: of a process that has ended its actions vanish, of one that is stopped they wait until it goes
// on.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"

namespace outrider::simulation {

// What kill -9, SIGSTOP and a power switch do to a process. Who it is lives on; what it knew is its owner's to drop.
struct Process {
  std::string name;
  int index = 0;      // in its world
  uint64_t life = 0;  // rises with each start; actions belong to one
  bool alive = false;
  bool stopped = false;
  bool silent = false;  // its machine is off: nobody is told that it ended
  // Since when it answers nothing.
  std::optional<TimePoint> unresponsive_since;
  TimePoint responsive_since{};
  std::vector<std::function<void()>> deferred;  // came while it was stopped
};

class EventQueue {
 public:
  using Action = std::function<void()>;

  TimePoint now() const { return now_; }
  // At `when`, or at once if that has passed; after everything that was set for the same instant before. `owner` null:
  // the world's own.
  void At(TimePoint when, Process* owner, Action action);
  void After(Duration delay, Process* owner, Action action) { At(now_ + delay, owner, std::move(action)); }

  // False if there is nothing to do.
  bool RunNext();
  int64_t num_events() const { return num_events_; }
  std::optional<TimePoint> next() const;

  // What was deferred while the process was stopped happens now, in its order.
  void Resume(Process& process);

 private:
  struct Event {
    TimePoint when;
    uint64_t order;
    Process* owner;
    uint64_t life;
    Action action;
  };
  struct Later {
    bool operator()(const Event& a, const Event& b) const {
      return a.when != b.when ? a.when > b.when : a.order > b.order;
    }
  };

  TimePoint now_ = TimePoint{} + FromMillis(1000);
  std::vector<Event> heap_;
  uint64_t last_order_ = 0;
  int64_t num_events_ = 0;
};

// The clock of one process. It may run ahead of the world while the process computes: what a turn does at its end
// happens later than its beginning, though the turn is one event.
class ProcessClock final : public Clock {
 public:
  explicit ProcessClock(const EventQueue& queue) : queue_(queue) {}
  TimePoint Now() const override { return busy_until_ > queue_.now() ? busy_until_ : queue_.now(); }
  // It computes until then.
  void AdvanceTo(TimePoint when) { busy_until_ = when; }
  TimePoint busy_until() const { return busy_until_; }

 private:
  const EventQueue& queue_;
  TimePoint busy_until_{};
};

}  // namespace outrider::simulation
