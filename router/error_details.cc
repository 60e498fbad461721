#include "router/error_details.h"

#include <chrono>
#include <optional>

#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "router/grpc_status.h"
#include "router/retry_after.h"

namespace outrider::router {

std::string SerializeRetryInfo(const grpc::Status& status, Duration retry_after) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(retry_after);
  const auto rest = std::chrono::duration_cast<std::chrono::nanoseconds>(retry_after - seconds);
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(seconds.count());
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(rest.count()));
  google::rpc::Status details;
  details.set_code(status.error_code());
  details.set_message(status.error_message());
  details.add_details()->PackFrom(info);
  return details.SerializeAsString();
}

grpc::Status ToClientStatus(const absl::Status& status) {
  grpc::Status plain = ToGrpcStatus(status);
  const std::optional<Duration> after = status.ok() ? std::nullopt : RetryAfterOf(status);
  if (!after.has_value()) return plain;
  return grpc::Status(plain.error_code(), plain.error_message(), SerializeRetryInfo(plain, *after));
}

}  // namespace outrider::router
