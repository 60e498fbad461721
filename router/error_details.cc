#include "router/error_details.h"

#include <chrono>
#include <optional>
#include <string>

#include "absl/strings/ascii.h"
#include "base/clock.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "router/error_reason.h"
#include "router/grpc_status.h"
#include "router/retry_after.h"

namespace outrider::router {
namespace {

constexpr size_t kMaxMessageBytes = 2048;

void AddErrorInfo(const absl::Status& status, google::rpc::Status& details) {
  google::rpc::ErrorInfo info;
  const std::string reason = ReasonOf(status);
  info.set_reason(reason.empty() ? absl::StatusCodeToString(status.code()) : absl::AsciiStrToUpper(reason));
  info.set_domain("outrider");
  details.add_details()->PackFrom(info);
}

void AddFieldViolation(const std::string& field, const std::string& message, google::rpc::Status& details) {
  google::rpc::BadRequest bad;
  google::rpc::BadRequest::FieldViolation* const violation = bad.add_field_violations();
  violation->set_field(field);
  violation->set_description(message);
  details.add_details()->PackFrom(bad);
}

void AddQuotaFailure(const std::string& message, google::rpc::Status& details) {
  google::rpc::QuotaFailure failure;
  google::rpc::QuotaFailure::Violation* const violation = failure.add_violations();
  violation->set_subject("API key");
  violation->set_description(message);
  details.add_details()->PackFrom(failure);
}

void AddRetryInfo(Duration retry_after, google::rpc::Status& details) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(retry_after);
  const auto rest = std::chrono::duration_cast<std::chrono::nanoseconds>(retry_after - seconds);
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(seconds.count());
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(rest.count()));
  details.add_details()->PackFrom(info);
}

}  // namespace

grpc::Status ToClientStatus(const absl::Status& status) {
  const grpc::Status plain = ToGrpcStatus(status);
  if (status.ok()) return plain;
  const std::string message = plain.error_message().substr(0, kMaxMessageBytes);
  google::rpc::Status details;
  details.set_code(plain.error_code());
  details.set_message(message);
  AddErrorInfo(status, details);
  const std::string field = FieldOf(status);
  if (absl::IsInvalidArgument(status) && !field.empty()) AddFieldViolation(field, message, details);
  if (ReasonOf(status) == kRateLimitExceeded) AddQuotaFailure(message, details);
  if (const std::optional<Duration> after = RetryAfterOf(status); after.has_value()) AddRetryInfo(*after, details);
  return grpc::Status(plain.error_code(), plain.error_message(), details.SerializeAsString());
}

}  // namespace outrider::router
