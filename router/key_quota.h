// KeyQuota: what one API key may use, and has. Pure.
//
// Requests and tokens come at their rate, and a key that rested has a minute's worth of them at once. Tokens are
// charged as they are computed, prompts when they start, so a request that began is never broken off; a key that used
// more than it had waits until that is made up for.
//
// Thread safety: none. REQUIRES of all methods: `now` never goes back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/token_bucket.h"
#include "security/api_keys.h"

namespace outrider::router {

class KeyQuota {
 public:
  // `name` is told in refusals.
  KeyQuota(std::string name, const KeyLimits& limits);

  // A request begins. RESOURCE_EXHAUSTED naming the limit, with the time after which it is worth trying again
  // (retry_after.h); then nothing was taken.
  absl::Status Enter(TimePoint now);
  // A request that Enter let in ends.
  void Leave();
  void Charge(int64_t num_tokens, TimePoint now);
  // Other limits from now on; what was used stays used.
  void SetLimits(const KeyLimits& limits, TimePoint now);

  int64_t num_open() const { return num_open_; }

 private:
  absl::Status Refused(const char* limit, uint64_t value, Duration after) const;

  const std::string name_;
  KeyLimits limits_;
  std::optional<TokenBucket> requests_;
  std::optional<TokenBucket> tokens_;
  int64_t num_open_ = 0;
};

}  // namespace outrider::router
