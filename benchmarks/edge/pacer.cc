#include "benchmarks/edge/pacer.h"

#include <algorithm>
#include <utility>

namespace outrider::edge {

Pacer::Pacer(std::function<void()> after_steps) : after_steps_(std::move(after_steps)) {
  std::thread([this] { Run(); }).detach();
}

void Pacer::Add(int interval_ms, std::shared_ptr<Paced> member) {
  MutexLock lock(mu_);
  Batch& batch = batches_[interval_ms];
  if (batch.members.empty()) {
    batch.next = std::chrono::steady_clock::now() + std::chrono::milliseconds(interval_ms);
    changed_.NotifyOne();
  }
  batch.members.push_back(std::move(member));
}

void Pacer::Run() {
  while (true) {
    std::vector<std::shared_ptr<Paced>> due;
    int interval_ms = 0;
    {
      MutexLock lock(mu_);
      TimePoint first = TimePoint::max();
      for (const auto& [interval, batch] : batches_) {
        if (!batch.members.empty()) first = std::min(first, batch.next);
      }
      if (first == TimePoint::max()) {
        changed_.Wait(mu_);
        continue;
      }
      const TimePoint now = std::chrono::steady_clock::now();
      if (first > now) {
        changed_.WaitUntil(mu_, first);
        continue;
      }
      for (auto& [interval, batch] : batches_) {
        if (batch.members.empty() || batch.next != first) continue;
        interval_ms = interval;
        due.swap(batch.members);
        // An engine that is late does not catch up.
        batch.next = std::max(batch.next + std::chrono::milliseconds(interval), now);
        break;
      }
    }
    std::erase_if(due, [](const std::shared_ptr<Paced>& member) { return !member->Step(); });
    after_steps_();
    MutexLock lock(mu_);
    std::vector<std::shared_ptr<Paced>>& members = batches_[interval_ms].members;
    members.insert(members.end(), std::make_move_iterator(due.begin()), std::make_move_iterator(due.end()));
  }
}

}  // namespace outrider::edge
