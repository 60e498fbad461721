// Health of a process, in two answers: is it alive (its loop turns; if not, kill it) and is it ready (it takes work; if
// not, send it none). Both are asked of what does the work, whenever somebody wants to know, never remembered.
//
// They are shown as /livez and /readyz of the metrics page (base/metrics.h) and as the gRPC health services "liveness"
// and "readiness" (worker/rpc/rpc_server.h).
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "base/mutex.h"

namespace outrider {

// Thread safety: all methods, from any thread.
class ProcessHealth {
 public:
  // Empty: yes. Else why not, for people.
  using Check = std::function<std::string()>;

  // From now on these are asked. They may be asked from any thread until the next Set or Suspend has returned.
  void Set(Check live, Check ready) {
    MutexLock lock(mu_);
    live_ = std::move(live);
    ready_ = std::move(ready);
  }
  // Alive and not ready, without asking anybody: while starting, and while stopping.
  void Suspend(std::string reason) {
    MutexLock lock(mu_);
    live_ = ready_ = nullptr;
    suspended_ = std::move(reason);
  }

  std::string WhyNotLive() const {
    MutexLock lock(mu_);
    return live_ ? live_() : std::string();
  }
  // A process that is not alive is not ready.
  std::string WhyNotReady() const {
    MutexLock lock(mu_);
    if (!ready_) return suspended_;
    std::string reason = live_ ? live_() : std::string();
    return reason.empty() ? ready_() : reason;
  }
  bool IsLive() const { return WhyNotLive().empty(); }
  bool IsReady() const { return WhyNotReady().empty(); }

 private:
  mutable Mutex mu_;
  Check live_ ABSL_GUARDED_BY(mu_);
  Check ready_ ABSL_GUARDED_BY(mu_);
  std::string suspended_ ABSL_GUARDED_BY(mu_) = "starting";
};

}  // namespace outrider
