#include "router/api_access.h"

#include <fstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file_stamp.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace outrider::router {
namespace {

constexpr Duration kLookInterval = std::chrono::seconds(1);
constexpr int64_t kMaxFileBytes = 4 << 20;
constexpr absl::string_view kScheme = "bearer ";

absl::StatusOr<ApiKeys> Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxFileBytes + 1, '\0');
  if (file) file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad() || (file.gcount() == 0 && !file.eof())) {
    return absl::InvalidArgumentError(
        absl::StrCat("api_keys '", path, "' can not be read: is it a file, and may this process read it?"));
  }
  if (file.gcount() > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat("api_keys '", path, "' is larger than ", kMaxFileBytes, " bytes"));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  return ApiKeys::Parse(path, text);
}

}  // namespace

ApiAccess::Grant::~Grant() {
  if (access_ != nullptr) access_->Leave(key_name_);
}

ApiAccess::Grant::Grant(Grant&& other) noexcept
    : access_(std::exchange(other.access_, nullptr)), key_name_(std::move(other.key_name_)) {}

ApiAccess::Grant& ApiAccess::Grant::operator=(Grant&& other) noexcept {
  std::swap(access_, other.access_);
  std::swap(key_name_, other.key_name_);
  return *this;
}

void ApiAccess::Grant::Charge(int64_t num_tokens) {
  if (access_ != nullptr) access_->Charge(key_name_, num_tokens);
}

absl::StatusOr<std::unique_ptr<ApiAccess>> ApiAccess::Open(const std::string& path, const Clock* clock) {
  std::unique_ptr<ApiAccess> access(new ApiAccess(path, clock));
  if (path.empty()) return access;
  std::string stamp = FileStamp(path);
  ASSIGN_OR_RETURN(ApiKeys keys, Read(path));
  const TimePoint now = clock->Now();
  MutexLock lock(access->mu_);
  access->stamp_ = std::move(stamp);
  access->looked_at_ = now;
  access->Take(std::move(keys), now);
  return access;
}

void ApiAccess::Take(ApiKeys keys, TimePoint now) {
  keys_ = std::move(keys);
  absl::flat_hash_map<std::string, KeyQuota> quotas;
  for (const ApiKey& key : keys_.keys()) {
    if (const auto old = quotas_.find(key.name); old != quotas_.end()) {
      old->second.SetLimits(key.limits, now);
      quotas.insert(std::move(*old));
    } else {
      quotas.emplace(key.name, KeyQuota(key.name, key.limits));
    }
  }
  for (auto& [name, quota] : quotas_) {
    if (quota.num_open() > 0 && !quotas.contains(name)) quotas.emplace(name, std::move(quota));
  }
  quotas_ = std::move(quotas);
}

void ApiAccess::ReloadIfChanged(TimePoint now) {
  if (now - looked_at_ < kLookInterval) return;
  looked_at_ = now;
  std::string stamp = FileStamp(path_);
  if (stamp == stamp_) return;
  stamp_ = std::move(stamp);
  absl::StatusOr<ApiKeys> keys = Read(path_);
  if (!keys.ok()) {
    LogError(keys.status().message(), "; the keys that were read before count on");
    return;
  }
  Take(*std::move(keys), now);
  LogInfo("read ", keys_.keys().size(), " API keys from ", path_);
}

absl::StatusOr<const ApiKey*> ApiAccess::FindLocked(const Credentials& credentials) {
  ReloadIfChanged(clock_->Now());
  if (credentials.authorization.empty()) {
    return absl::UnauthenticatedError("this server asks for an API key: send authorization: Bearer KEY");
  }
  if (!absl::StartsWithIgnoreCase(credentials.authorization, kScheme)) {
    return absl::UnauthenticatedError("authorization is not of the form: Bearer KEY");
  }
  const ApiKey* const key = keys_.Find(absl::StripAsciiWhitespace(credentials.authorization.substr(kScheme.size())));
  if (key == nullptr) {
    return absl::UnauthenticatedError("the API key is none of this server's; ask whoever runs it for one");
  }
  return key;
}

absl::StatusOr<std::string> ApiAccess::Authenticate(const Credentials& credentials) {
  if (!asks_for_keys()) return std::string();
  MutexLock lock(mu_);
  ASSIGN_OR_RETURN(const ApiKey* const key, FindLocked(credentials));
  return key->name;
}

absl::StatusOr<ApiAccess::Grant> ApiAccess::Admit(const Credentials& credentials) {
  if (!asks_for_keys()) return Grant();
  MutexLock lock(mu_);
  ASSIGN_OR_RETURN(const ApiKey* const key, FindLocked(credentials));
  RETURN_IF_ERROR(quotas_.at(key->name).Enter(clock_->Now()));
  return Grant(this, key->name);
}

void ApiAccess::Charge(const std::string& key_name, int64_t num_tokens) {
  MutexLock lock(mu_);
  if (const auto quota = quotas_.find(key_name); quota != quotas_.end())
    quota->second.Charge(num_tokens, clock_->Now());
}

void ApiAccess::Leave(const std::string& key_name) {
  MutexLock lock(mu_);
  const auto quota = quotas_.find(key_name);
  CHECK(quota != quotas_.end());
  quota->second.Leave();
}

}  // namespace outrider::router
