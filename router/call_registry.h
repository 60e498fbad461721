// CallRegistry names calls and counts those that are open, so that a draining router knows when the last has ended.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <random>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"

namespace outrider::router {

class CallRegistry {
 public:
  CallRegistry() : life_((uint64_t{std::random_device()()} << 32) | std::random_device()()) {}

  // Counts the call until Leave. UNAVAILABLE once draining: then the call is to be ended, but is counted all the same.
  absl::Status Enter() {
    MutexLock lock(mu_);
    ++num_open_;
    if (draining_) return absl::UnavailableError("this router is shutting down; ask another, or again later");
    return absl::OkStatus();
  }
  void Leave() {
    MutexLock lock(mu_);
    if (--num_open_ == 0) none_open_.NotifyAll();
  }
  void AwaitNone() {
    MutexLock lock(mu_);
    while (num_open_ > 0) none_open_.Wait(mu_);
  }
  int num_open() const {
    MutexLock lock(mu_);
    return num_open_;
  }

  // From now on Enter refuses.
  void StartDrain() {
    MutexLock lock(mu_);
    draining_ = true;
  }
  bool draining() const {
    MutexLock lock(mu_);
    return draining_;
  }

  // A number that no other request or attempt of this router has, from 1.
  uint64_t NextId() { return last_id_.fetch_add(1, std::memory_order_relaxed) + 1; }
  // What the client knows a request by: differs between routers and their lives.
  std::string NameOf(uint64_t id) const { return absl::StrCat("req-", absl::Hex(life_, absl::kZeroPad16), "-", id); }

 private:
  const uint64_t life_;
  std::atomic<uint64_t> last_id_{0};
  mutable Mutex mu_;
  CondVar none_open_;
  int num_open_ ABSL_GUARDED_BY(mu_) = 0;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace outrider::router
