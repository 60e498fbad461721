#include "router/key_quota.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "router/error_reason.h"
#include "router/retry_after.h"

namespace outrider::router {
namespace {

TokenBucket::Options PerMinute(uint64_t amount) {
  return {.burst = static_cast<double>(amount), .per_second = static_cast<double>(amount) / 60};
}

void SetRate(uint64_t per_minute, TimePoint now, std::optional<TokenBucket>& bucket) {
  if (per_minute == 0) {
    bucket.reset();
  } else if (bucket.has_value()) {
    bucket->SetOptions(PerMinute(per_minute), now);
  } else {
    bucket.emplace(PerMinute(per_minute));
  }
}

}  // namespace

KeyQuota::KeyQuota(std::string name, const KeyLimits& limits) : name_(std::move(name)) {
  SetLimits(limits, TimePoint{});
}

void KeyQuota::SetLimits(const KeyLimits& limits, TimePoint now) {
  limits_ = limits;
  SetRate(limits.requests_per_minute, now, requests_);
  SetRate(limits.tokens_per_minute, now, tokens_);
}

absl::Status KeyQuota::Refused(const char* limit, uint64_t value, Duration after) const {
  const absl::Status refused =
      absl::ResourceExhaustedError(absl::StrCat("API key '", name_, "' is at its limit ", limit, " = ", value,
                                                "; come again in ", static_cast<int64_t>(ToMillis(after)), " ms"));
  return WithRetryAfter(WithReason(refused, kRateLimitExceeded), after);
}

absl::Status KeyQuota::Enter(TimePoint now) {
  if (limits_.max_concurrent_requests != 0 && num_open_ >= static_cast<int64_t>(limits_.max_concurrent_requests)) {
    return Refused("max_concurrent_requests", limits_.max_concurrent_requests, kRetryAfterDefault);
  }
  if (tokens_.has_value()) {
    if (const TimePoint at = tokens_->NextAt(now, 0); at > now) {
      return Refused("tokens_per_minute", limits_.tokens_per_minute, at - now);
    }
  }
  if (requests_.has_value() && !requests_->TryTake(now)) {
    return Refused("requests_per_minute", limits_.requests_per_minute, requests_->NextAt(now) - now);
  }
  ++num_open_;
  return absl::OkStatus();
}

void KeyQuota::Leave() {
  CHECK(num_open_ > 0);
  --num_open_;
}

void KeyQuota::Charge(int64_t num_tokens, TimePoint now) {
  if (tokens_.has_value()) tokens_->Take(num_tokens, now);
}

}  // namespace outrider::router
