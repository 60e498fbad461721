#include "worker/engine/inbox.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace outrider {

absl::Status Inbox::Post(InboxEvent event) {
  MutexLock lock(mu_);
  if (const auto* submit = std::get_if<SubmitEvent>(&event)) {
    if (closed_) return absl::UnavailableError(closed_reason_);
    const int num_lanes = static_cast<int>(submit->request.lanes.size());
    if (num_waiting_lanes_ + num_lanes > max_waiting_lanes_) {
      return absl::ResourceExhaustedError(
          absl::StrCat(num_waiting_lanes_, " sequences wait to be taken in; at most ", max_waiting_lanes_, " may"));
    }
    num_waiting_lanes_ += num_lanes;
  }
  events_.push_back(std::move(event));
  awake_ = true;
  changed_.NotifyOne();
  return absl::OkStatus();
}

void Inbox::Wake() {
  MutexLock lock(mu_);
  awake_ = true;
  changed_.NotifyOne();
}

void Inbox::CloseToSubmissions(const std::string& reason) {
  MutexLock lock(mu_);
  closed_ = true;
  closed_reason_ = reason;
  awake_ = true;
  changed_.NotifyOne();
}

std::vector<InboxEvent> Inbox::Drain() {
  MutexLock lock(mu_);
  awake_ = false;
  num_waiting_lanes_ = 0;
  return std::exchange(events_, {});
}

void Inbox::WaitUntil(TimePoint deadline) {
  MutexLock lock(mu_);
  while (!awake_) {
    if (deadline == TimePoint::max()) {
      changed_.Wait(mu_);
    } else if (!changed_.WaitUntil(mu_, deadline)) {
      return;
    }
  }
}

}  // namespace outrider
