#include "router/failure_detector.h"

namespace outrider::router {

void FailureDetector::Look(TimePoint now) {
  if (looked_ && now - last_look_ > timeout_ / 2) nobody_dead_before_ = now + timeout_;
  looked_ = true;
  last_look_ = now;
}

Liveness FailureDetector::Judge(const std::string& id, TimePoint now) const {
  const auto heard = heard_.find(id);
  if (heard == heard_.end()) return Liveness::kDead;
  const Duration silence = now - heard->second;
  if (silence >= timeout_ && now >= nobody_dead_before_) return Liveness::kDead;
  return silence >= timeout_ / 2 ? Liveness::kSuspect : Liveness::kAlive;
}

}  // namespace outrider::router
