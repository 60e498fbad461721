// Quarantine remembers requests that were on two target groups when they died, so that one that is sent again does not
// take a third with it.
//
// A request is known by its fingerprint (prompt and parameters without the seed). Two deaths are no proof: others on
// the same groups are suspected with it. So it is kept for kFor only, and no more than kMaxRequests are.
//
// Thread safety: none. Pure.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/clock.h"

namespace outrider::router {

class Quarantine {
 public:
  static constexpr Duration kFor = std::chrono::seconds(60);
  static constexpr size_t kMaxRequests = 1024;  // the oldest goes

  void Add(uint64_t fingerprint, TimePoint now) {
    Expire(now);
    while (order_.size() >= kMaxRequests) Pop();
    until_[fingerprint] = now + kFor;
    order_.emplace_back(now + kFor, fingerprint);
  }
  // How long it is still kept; 0 if it is not.
  Duration Remaining(uint64_t fingerprint, TimePoint now) const {
    const auto it = until_.find(fingerprint);
    return it == until_.end() || it->second <= now ? Duration::zero() : it->second - now;
  }
  size_t size() const { return until_.size(); }

 private:
  void Expire(TimePoint now) {
    while (!order_.empty() && order_.front().first <= now) Pop();
  }
  void Pop() {
    const auto [until, fingerprint] = order_.front();
    order_.pop_front();
    // Added again later: then that is what counts.
    if (const auto it = until_.find(fingerprint); it != until_.end() && it->second == until) until_.erase(it);
  }

  absl::flat_hash_map<uint64_t, TimePoint> until_;
  std::deque<std::pair<TimePoint, uint64_t>> order_;
};

}  // namespace outrider::router
