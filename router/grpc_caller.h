// What a gRPC call says of who makes it, and how long they wait.
//
// Thread safety: pure functions.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <optional>

#include "base/clock.h"
#include "router/api_access.h"

namespace outrider::router {

// A view into the call's metadata.
inline Credentials CredentialsOf(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("authorization");
  if (found == context.client_metadata().end()) return {};
  return {.authorization = {found->second.data(), found->second.size()}};
}

// The client's deadline on our clock; nothing if it is a month away or more.
inline std::optional<TimePoint> DeadlineOf(const grpc::CallbackServerContext& context, TimePoint now) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  if (left >= std::chrono::hours(24 * 30)) return std::nullopt;
  return now + std::chrono::duration_cast<Duration>(left);
}

}  // namespace outrider::router
