#include "router/admission_controller.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider::router {

AdmissionController::Key AdmissionController::KeyOf(const Arrival& arrival, uint64_t number) const {
  return {!arrival.replay, (arrival.since - arrival.priority * options_.priority_ageing).time_since_epoch().count(),
          number};
}

absl::Status AdmissionController::Enqueue(Ticket ticket, const Arrival& arrival, std::vector<Ticket>& displaced) {
  std::vector<Ticket> victims;
  if (!arrival.replay) {
    int num_requests_left = num_requests();
    int64_t num_tokens_left = num_tokens_;
    const auto too_many = [&] { return num_requests_left >= options_.max_queued_requests; };
    // One request alone is never too much: the queue is where it waits for the only group there is.
    const auto too_heavy = [&] {
      return num_requests_left > 0 && num_tokens_left + arrival.num_tokens > options_.max_queued_tokens;
    };
    for (auto it = order_.rbegin(); it != order_.rend() && (too_many() || too_heavy()); ++it) {
      if (!std::get<0>(it->first)) break;  // replays are first; so are all that follow
      const Entry& last = entries_.at(it->second);
      if (last.priority >= arrival.priority) continue;
      victims.push_back(it->second);
      --num_requests_left;
      num_tokens_left -= last.num_tokens;
    }
    if (too_many()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", num_requests(),
                       " requests wait (max_queued_requests = ", options_.max_queued_requests, "); try again later"));
    }
    if (too_heavy()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: requests of ", num_tokens_, " tokens wait, this one has ",
                       arrival.num_tokens, " (max_queued_tokens = ", options_.max_queued_tokens, "); try again later"));
    }
  }
  for (const Ticket victim : victims) {
    Remove(victim);
    displaced.push_back(victim);
  }
  TimePoint expiry = arrival.since + WaitMax(arrival);
  if (arrival.deadline.has_value()) expiry = std::min(expiry, *arrival.deadline);
  const Entry entry{KeyOf(arrival, ++last_number_), arrival.num_tokens, arrival.priority, expiry};
  CHECK(entries_.emplace(ticket, entry).second);
  order_.emplace(entry.key, ticket);
  expiries_.emplace(entry.expiry, ticket);
  num_tokens_ += entry.num_tokens;
  return absl::OkStatus();
}

bool AdmissionController::Remove(Ticket ticket) {
  const auto it = entries_.find(ticket);
  if (it == entries_.end()) return false;
  order_.erase(it->second.key);
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

int64_t AdmissionController::TokensAhead(const Arrival& arrival) const {
  const Key key = KeyOf(arrival, last_number_ + 1);
  if (order_.empty() || order_.rbegin()->first < key) return num_tokens_;
  int64_t num_tokens = 0;
  for (const auto& [other, ticket] : order_) {
    if (other > key) break;
    num_tokens += entries_.at(ticket).num_tokens;
  }
  return num_tokens;
}

}  // namespace outrider::router
