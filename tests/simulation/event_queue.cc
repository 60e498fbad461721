#include "tests/simulation/event_queue.h"

#include <algorithm>
#include <utility>

namespace outrider::simulation {

void EventQueue::At(TimePoint when, Process* owner, Action action) {
  heap_.push_back({.when = std::max(when, now_),
                   .order = ++last_order_,
                   .owner = owner,
                   .life = owner == nullptr ? 0 : owner->life,
                   .action = std::move(action)});
  std::push_heap(heap_.begin(), heap_.end(), Later());
}

std::optional<TimePoint> EventQueue::next() const {
  if (heap_.empty()) return std::nullopt;
  return heap_.front().when;
}

bool EventQueue::RunNext() {
  if (heap_.empty()) return false;
  std::pop_heap(heap_.begin(), heap_.end(), Later());
  Event event = std::move(heap_.back());
  heap_.pop_back();
  now_ = event.when;
  if (event.owner != nullptr) {
    if (!event.owner->alive || event.owner->life != event.life) return true;
    if (event.owner->stopped) {
      event.owner->deferred.push_back(std::move(event.action));
      return true;
    }
  }
  ++num_events_;
  event.action();
  return true;
}

void EventQueue::Resume(Process& process) {
  process.stopped = false;
  process.unresponsive_since.reset();
  process.responsive_since = now_;
  for (Action& action : std::exchange(process.deferred, {})) At(now_, &process, std::move(action));
}

}  // namespace outrider::simulation
