// AdmissionController is the queue of requests that wait for a group: in order, bounded by count, tokens and time.
//
// It holds tickets only; who they stand for is the caller's business. Replays of requests that ran already go to the
// front and are not refused: they were admitted once, and running requests are bounded by the groups.
//
// Thread safety: none. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/clock.h"

namespace outrider::router {

class AdmissionController {
 public:
  struct Options {
    int max_queued_requests = 4096;
    int64_t max_queued_tokens = 16777216;
    Duration queue_timeout = FromMillis(30000);
  };
  using Ticket = uint64_t;  // the caller's name for who waits; each waits once at a time
  enum class Place : uint8_t { kBack, kFront };
  enum class Visit : uint8_t { kTake, kSkip, kStop };

  explicit AdmissionController(const Options& options) : options_(options) {}

  // RESOURCE_EXHAUSTED at a bound, naming the setting; never for kFront.
  // REQUIRES: `ticket` does not wait.
  absl::Status Enqueue(Ticket ticket, Place place, int64_t num_tokens, TimePoint now);

  // False if it does not wait (any more).
  bool Remove(Ticket ticket);
  // What a waiting ticket weighs, once it is known better.
  void SetTokens(Ticket ticket, int64_t num_tokens);

  // Those that have waited for queue_timeout; they are removed.
  std::vector<Ticket> TakeExpired(TimePoint now);
  // When the next one expires.
  std::optional<TimePoint> next_expiry() const;

  // Shows tickets in order; `visit(ticket)` says whether to take (remove) it, go on or stop.
  template <typename Visitor>
  void VisitInOrder(Visitor visit) {
    for (auto it = order_.begin(); it != order_.end();) {
      const Ticket ticket = it->second;
      const Visit answer = visit(ticket);
      if (answer == Visit::kStop) return;
      ++it;
      // Erasing invalidates a B-tree's iterators: find the place again by its key.
      if (answer == Visit::kTake) {
        const int64_t next = it == order_.end() ? INT64_MAX : it->first;
        Remove(ticket);
        it = order_.lower_bound(next);
      }
    }
  }

  int num_requests() const { return static_cast<int>(order_.size()); }
  int64_t num_tokens() const { return num_tokens_; }
  bool empty() const { return order_.empty(); }

 private:
  struct Entry {
    int64_t order;
    int64_t num_tokens;
    TimePoint expiry;
  };
  const Options options_;
  int64_t next_back_ = 0;
  int64_t next_front_ = -1;
  int64_t num_tokens_ = 0;
  absl::flat_hash_map<Ticket, Entry> entries_;
  absl::btree_map<int64_t, Ticket> order_;
  std::set<std::pair<TimePoint, Ticket>> expiries_;
};

}  // namespace outrider::router
