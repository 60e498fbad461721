// ApiAccess: who may use the API, and how much. The file of keys (security/api_keys.h) and what each key has used.
//
// The file is read again when it changed, looked at once a second at most: new keys, other limits and keys that are
// gone count from the next request; requests that are open go on. A file that can not be read or is wrong changes
// nothing, and the log says so.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "router/key_quota.h"
#include "security/api_keys.h"

namespace outrider::router {

// The credentials of a call: what its `authorization` says, a header over HTTP and metadata over gRPC.
struct Credentials {
  absl::string_view authorization;  // Bearer KEY
};

class ApiAccess {
 public:
  // An open request's share of its key's limits, until it is destroyed. Empty, it stands for the API without keys.
  // Outlives no ApiAccess.
  class Grant {
   public:
    Grant() = default;
    ~Grant();
    Grant(Grant&& other) noexcept;
    Grant& operator=(Grant&& other) noexcept;

    void Charge(int64_t num_tokens);
    // Whose request it is; empty without keys.
    const std::string& key_name() const { return key_name_; }

   private:
    friend class ApiAccess;
    Grant(ApiAccess* access, std::string key_name) : access_(access), key_name_(std::move(key_name)) {}
    ApiAccess* access_ = nullptr;
    std::string key_name_;
  };

  // `path` empty: anyone may use the API. Errors: INVALID_ARGUMENT naming the file, as ApiKeys::Parse has them.
  // `clock` outlives this.
  static absl::StatusOr<std::unique_ptr<ApiAccess>> Open(const std::string& path, const Clock* clock);

  bool asks_for_keys() const { return !path_.empty(); }

  // Whose key it is. UNAUTHENTICATED if it is nobody's.
  absl::StatusOr<std::string> Authenticate(const Credentials& credentials);
  // The same for a request that counts against the key's limits; RESOURCE_EXHAUSTED as KeyQuota::Enter has it.
  absl::StatusOr<Grant> Admit(const Credentials& credentials);

 private:
  ApiAccess(std::string path, const Clock* clock) : path_(std::move(path)), clock_(clock) {}
  absl::StatusOr<const ApiKey*> FindLocked(const Credentials& credentials) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReloadIfChanged(TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Take(ApiKeys keys, TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Charge(const std::string& key_name, int64_t num_tokens);
  void Leave(const std::string& key_name);

  const std::string path_;
  const Clock* const clock_;
  Mutex mu_;
  ApiKeys keys_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, KeyQuota> quotas_ ABSL_GUARDED_BY(mu_);  // of keys, and of gone ones still in use
  std::string stamp_ ABSL_GUARDED_BY(mu_);                                  // of the file that was looked at last
  TimePoint looked_at_ ABSL_GUARDED_BY(mu_){};
};

}  // namespace outrider::router
