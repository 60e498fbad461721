// AdmissionController is the queue of requests that wait for a group: by priority and age, bounded by count, tokens and
// time.
//
// It holds tickets only; who they stand for is the caller's business.
//
// Order: replays first. Then by priority, where waiting for `priority_ageing` is worth one priority: a request is
// overtaken only by those that come soon after it, so nobody starves. As everyone ages alike, the order of two never
// changes: it is that of arrival less priority times ageing.
//
// Bounds: a request that finds the queue full displaces those of lower priority, the last in order first, or else is
// refused. Replays of requests that ran already are never refused and never displaced: they were admitted once, and
// running requests are bounded by the groups.
//
// Thread safety: none. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <tuple>
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
    Duration replay_wait = FromMillis(60000);
    Duration priority_ageing = FromMillis(1000);
  };
  using Ticket = uint64_t;  // the caller's name for who waits; each waits once at a time
  struct Arrival {
    int64_t num_tokens = 0;
    bool replay = false;
    int priority = 0;
    TimePoint since{};                  // its wait counts from here
    std::optional<TimePoint> deadline;  // it does not wait beyond
  };
  enum class Visit : uint8_t { kTake, kSkip, kStop };

  explicit AdmissionController(const Options& options) : options_(options) {}

  // RESOURCE_EXHAUSTED at a bound, naming the setting; never for a replay. Those that were displaced for it are removed
  // and appended to `displaced`. REQUIRES: `ticket` does not wait.
  absl::Status Enqueue(Ticket ticket, const Arrival& arrival, std::vector<Ticket>& displaced);

  // False if it does not wait (any more).
  bool Remove(Ticket ticket);
  // What a waiting ticket weighs, once it is known better.
  void SetTokens(Ticket ticket, int64_t num_tokens);

  // Those that have waited for as long as they may; they are removed.
  std::vector<Ticket> TakeExpired(TimePoint now);
  // When the next one expires.
  std::optional<TimePoint> next_expiry() const;
  // How long one like this waits at most, from its `since`.
  Duration WaitMax(const Arrival& arrival) const {
    return arrival.replay ? options_.replay_wait : options_.queue_timeout;
  }

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
        const bool at_end = it == order_.end();
        const Key next = at_end ? Key() : it->first;
        Remove(ticket);
        it = at_end ? order_.end() : order_.lower_bound(next);
      }
    }
  }

  // Tokens of those that would be before `arrival`.
  int64_t TokensAhead(const Arrival& arrival) const;
  int num_requests() const { return static_cast<int>(order_.size()); }
  int64_t num_tokens() const { return num_tokens_; }
  bool empty() const { return order_.empty(); }

 private:
  // No replay, arrival less what the priority is worth, order of coming.
  using Key = std::tuple<bool, int64_t, uint64_t>;
  struct Entry {
    Key key;
    int64_t num_tokens;
    int priority;
    TimePoint expiry;
  };
  Key KeyOf(const Arrival& arrival, uint64_t number) const;

  const Options options_;
  uint64_t last_number_ = 0;
  int64_t num_tokens_ = 0;
  absl::flat_hash_map<Ticket, Entry> entries_;
  absl::btree_map<Key, Ticket> order_;
  std::set<std::pair<TimePoint, Ticket>> expiries_;
};

}  // namespace outrider::router
