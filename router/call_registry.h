// CallRegistry names calls and knows those that are open, so that a draining router can wait for the last, and end what
// is left.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"

namespace outrider::router {

// A call that is open.
class OpenCall {
 public:
  virtual ~OpenCall() = default;
  // It ends as `status` for its client, after what it has for it already.
  virtual void EndWith(const absl::Status& status) = 0;
  // Of the API key it was begun with; empty if there are none.
  virtual std::string key_name() = 0;
};

class CallRegistry {
 public:
  CallRegistry() : life_((uint64_t{std::random_device()()} << 32) | std::random_device()()) {}

  // Keeps the call until Leave. UNAVAILABLE once draining: then the call is to be ended, but is kept all the same.
  absl::Status Enter(uint64_t id, std::weak_ptr<OpenCall> call) {
    MutexLock lock(mu_);
    open_.emplace(id, std::move(call));
    if (draining_) return absl::UnavailableError("this router is shutting down; ask another, or again later");
    return absl::OkStatus();
  }
  void Leave(uint64_t id) {
    MutexLock lock(mu_);
    open_.erase(id);
    if (open_.empty()) none_open_.NotifyAll();
  }
  void AwaitNone() {
    MutexLock lock(mu_);
    while (!open_.empty()) none_open_.Wait(mu_);
  }
  int num_open() const {
    MutexLock lock(mu_);
    return static_cast<int>(open_.size());
  }
  void EndAll(const absl::Status& status) {
    std::vector<std::shared_ptr<OpenCall>> calls;
    {
      MutexLock lock(mu_);
      for (const auto& [id, open] : open_) {
        if (std::shared_ptr<OpenCall> call = open.lock()) calls.push_back(std::move(call));
      }
    }
    for (const std::shared_ptr<OpenCall>& call : calls) call->EndWith(status);
  }

  // The call of that name (NameOf), or null if it is not open here.
  std::shared_ptr<OpenCall> Find(const std::string& name) const {
    const size_t dash = name.rfind('-');
    uint64_t id = 0;
    if (dash == std::string::npos || !absl::SimpleAtoi(name.substr(dash + 1), &id) || NameOf(id) != name)
      return nullptr;
    MutexLock lock(mu_);
    const auto found = open_.find(id);
    return found == open_.end() ? nullptr : found->second.lock();
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
  absl::flat_hash_map<uint64_t, std::weak_ptr<OpenCall>> open_ ABSL_GUARDED_BY(mu_);
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace outrider::router
