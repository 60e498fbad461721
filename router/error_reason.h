// Why a request was refused, in words for programs: a code and the field it is about, carried by the status itself, so
// that they reach the client however many hands it goes through.
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace outrider::router {

inline constexpr absl::string_view kReasonPayload = "outrider.dev/reason";
inline constexpr absl::string_view kFieldPayload = "outrider.dev/field";
// The reason where an API key is at one of its limits.
inline constexpr absl::string_view kRateLimitExceeded = "rate_limit_exceeded";

// REQUIRES: !status.ok().
inline absl::Status WithReason(absl::Status status, absl::string_view reason) {
  status.SetPayload(kReasonPayload, absl::Cord(reason));
  return status;
}
inline absl::Status WithField(absl::Status status, absl::string_view field) {
  status.SetPayload(kFieldPayload, absl::Cord(field));
  return status;
}

// What they put there; empty if nothing.
inline std::string ReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kReasonPayload);
  return payload.has_value() ? std::string(*payload) : std::string();
}
// For INVALID_ARGUMENT without one, the field that the message begins with, as those of request_validation.h do.
std::string FieldOf(const absl::Status& status);

}  // namespace outrider::router
