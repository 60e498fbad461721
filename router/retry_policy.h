// May a request whose attempt was lost be tried again?
//
// Replaying is always safe: output ids are a pure function of numerics_id, prompt, parameters and seed, and what was
// delivered goes along. It is bounded, because a request that kills its group should not kill all of them.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace outrider::router {

// The first attempt and two replays.
inline constexpr uint32_t kMaxAttempts = 3;

struct LostAttempt {
  uint32_t attempt = 1;  // from 1
  bool tokens_delivered = false;
  absl::StatusCode code = absl::StatusCode::kUnavailable;  // why the attempt ended
};

enum class RetryDecision : uint8_t {
  kGiveUp,
  kAnyGroup,       // nothing was delivered: any group of the model
  kEqualNumerics,  // only a group of equal numerics_id continues with the same ids
};

// UNAVAILABLE (the group was lost, is draining or began a new epoch) may be retried; RESOURCE_EXHAUSTED (it is full)
// while nothing was delivered; nothing else.
inline RetryDecision DecideRetry(const LostAttempt& lost) {
  const bool retriable = lost.code == absl::StatusCode::kUnavailable ||
                         (lost.code == absl::StatusCode::kResourceExhausted && !lost.tokens_delivered);
  if (!retriable || lost.attempt >= kMaxAttempts) return RetryDecision::kGiveUp;
  return lost.tokens_delivered ? RetryDecision::kEqualNumerics : RetryDecision::kAnyGroup;
}

}  // namespace outrider::router
