// What a gRPC call says of who makes it, and how long they wait.
//
// Thread safety: pure functions.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <iterator>
#include <optional>

#include "base/clock.h"
#include "base/trace_context.h"
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

// The trace that the client's call belongs to; none if it names several.
inline std::optional<TraceContext> TraceOf(const grpc::CallbackServerContext& context) {
  const auto [first, end] = context.client_metadata().equal_range("traceparent");
  if (first == end || std::next(first) != end) return std::nullopt;
  return ParseTraceparent({first->second.data(), first->second.size()});
}

}  // namespace outrider::router
