// When a refused request is worth trying again: carried by the status itself, so that it reaches the client however
// many hands it goes through.
//
// Thread safety: pure functions.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace outrider::router {

inline constexpr absl::string_view kRetryAfterPayload = "outrider.dev/retry-after-ms";
// What a refusal says that knows no better.
inline constexpr Duration kRetryAfterDefault = std::chrono::seconds(1);

// `status` with the time in it, in whole ms, at least 1. REQUIRES: !status.ok().
inline absl::Status WithRetryAfter(absl::Status status, Duration after) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(after).count();
  status.SetPayload(kRetryAfterPayload, absl::Cord(absl::StrCat(ms < 1 ? 1 : ms)));
  return status;
}

// What WithRetryAfter put there; else the default where a retry may help (UNAVAILABLE), else nothing.
inline std::optional<Duration> RetryAfterOf(const absl::Status& status) {
  if (const auto payload = status.GetPayload(kRetryAfterPayload); payload.has_value()) {
    int64_t ms;
    if (absl::SimpleAtoi(std::string(*payload), &ms)) return std::chrono::milliseconds(ms);
  }
  if (absl::IsUnavailable(status)) return kRetryAfterDefault;
  return std::nullopt;
}

// `status` with another message; code and retry time stay.
inline absl::Status WithMessage(const absl::Status& status, absl::string_view message) {
  absl::Status changed(status.code(), message);
  const std::optional<Duration> after = RetryAfterOf(status);
  return after.has_value() ? WithRetryAfter(std::move(changed), *after) : changed;
}

}  // namespace outrider::router
