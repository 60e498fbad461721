#include "router/admission_controller.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider::router {

absl::Status AdmissionController::Enqueue(Ticket ticket, Place place, int64_t num_tokens, TimePoint now) {
  if (place == Place::kBack) {
    if (num_requests() >= options_.max_queued_requests) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", num_requests(),
                       " requests wait (max_queued_requests = ", options_.max_queued_requests, "); try again later"));
    }
    // One request alone is never too much: the queue is where it waits for the only group there is.
    if (!empty() && num_tokens_ + num_tokens > options_.max_queued_tokens) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: requests of ", num_tokens_, " tokens wait, this one has ", num_tokens,
                       " (max_queued_tokens = ", options_.max_queued_tokens, "); try again later"));
    }
  }
  const Entry entry{place == Place::kBack ? next_back_++ : next_front_--, num_tokens, now + options_.queue_timeout};
  CHECK(entries_.emplace(ticket, entry).second);
  order_.emplace(entry.order, ticket);
  expiries_.emplace(entry.expiry, ticket);
  num_tokens_ += num_tokens;
  return absl::OkStatus();
}

bool AdmissionController::Remove(Ticket ticket) {
  const auto it = entries_.find(ticket);
  if (it == entries_.end()) return false;
  order_.erase(it->second.order);
  expiries_.erase({it->second.expiry, ticket});
  num_tokens_ -= it->second.num_tokens;
  entries_.erase(it);
  return true;
}

void AdmissionController::SetTokens(Ticket ticket, int64_t num_tokens) {
  const auto it = entries_.find(ticket);
  if (it == entries_.end()) return;
  num_tokens_ += num_tokens - it->second.num_tokens;
  it->second.num_tokens = num_tokens;
}

std::vector<AdmissionController::Ticket> AdmissionController::TakeExpired(TimePoint now) {
  std::vector<Ticket> expired;
  while (!expiries_.empty() && expiries_.begin()->first <= now) {
    expired.push_back(expiries_.begin()->second);
    Remove(expired.back());
  }
  return expired;
}

std::optional<TimePoint> AdmissionController::next_expiry() const {
  if (expiries_.empty()) return std::nullopt;
  return expiries_.begin()->first;
}

}  // namespace outrider::router
