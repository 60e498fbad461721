// Alive, suspect or dead, from the times of heartbeats.
//
// The detector mistrusts itself first: if it has not been asked to look for half a timeout, this process stood still
// and heartbeats may wait unread. Nobody is dead then until a whole timeout of looking has passed.
//
// Thread safety: none. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "base/clock.h"

namespace outrider::router {

enum class Liveness : uint8_t { kAlive, kSuspect, kDead };

class FailureDetector {
 public:
  // A worker is suspect half a `timeout` after its last heartbeat and dead after the whole.
  explicit FailureDetector(Duration timeout) : timeout_(timeout) {}

  void Heard(const std::string& id, TimePoint now) { heard_[id] = now; }
  void Forget(const std::string& id) { heard_.erase(id); }

  // To be called often, a few times a timeout.
  void Look(TimePoint now);

  // As of `now`. Who was never heard is dead.
  Liveness Judge(const std::string& id, TimePoint now) const;

 private:
  const Duration timeout_;
  absl::flat_hash_map<std::string, TimePoint> heard_;
  bool looked_ = false;
  TimePoint last_look_{};
  TimePoint nobody_dead_before_{};
};

}  // namespace outrider::router
