#include "router/error_details.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "router/error_reason.h"
#include "router/retry_after.h"

namespace outrider::router {
namespace {

google::rpc::Status DetailsOf(const absl::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(ToClientStatus(status).error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(status.code()));
  return details;
}

// The detail of type T; null if there is none.
template <typename T>
std::optional<T> Detail(const google::rpc::Status& details) {
  T found;
  for (const auto& detail : details.details()) {
    if (detail.UnpackTo(&found)) return found;
  }
  return std::nullopt;
}

TEST(ErrorDetails, TellTheReasonAndTheRetryTimeInThePublishedForm) {
  const absl::Status refused =
      WithRetryAfter(absl::ResourceExhaustedError("the queue is full"), std::chrono::milliseconds(1250));
  const grpc::Status status = ToClientStatus(refused);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const google::rpc::Status details = DetailsOf(refused);
  EXPECT_EQ(details.message(), "the queue is full");
  ASSERT_EQ(details.details_size(), 2);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(details)->reason(), "RESOURCE_EXHAUSTED");
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(details)->domain(), "outrider");
  EXPECT_EQ(details.details(1).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
  EXPECT_EQ(Detail<google::rpc::RetryInfo>(details)->retry_delay().seconds(), 1);
  EXPECT_EQ(Detail<google::rpc::RetryInfo>(details)->retry_delay().nanos(), 250'000'000);
  // The bytes as googleapis' definitions give them: code, message, details{type_url, value}, where the values are
  // {reason, domain} and {retry_delay{seconds, nanos}}.
  EXPECT_EQ(status.error_details(), std::string("\x08\x08\x12\x11the queue is full"
                                                "\x1a\x4a\x0a\x28type.googleapis.com/google.rpc.ErrorInfo"
                                                "\x12\x1e\x0a\x12RESOURCE_EXHAUSTED\x12\x08outrider"
                                                "\x1a\x35\x0a\x28type.googleapis.com/google.rpc.RetryInfo"
                                                "\x12\x09\x0a\x07\x08\x01\x10\x80\xe5\x9a\x77",
                                                152));
}

TEST(ErrorDetails, NameTheFieldThatIsWrong) {
  const std::string message = "temperature = 300 is out of range; it takes 0 to 100; 0 is greedy";
  const google::rpc::Status details = DetailsOf(absl::InvalidArgumentError(message));
  const auto bad = Detail<google::rpc::BadRequest>(details);
  ASSERT_TRUE(bad.has_value());
  ASSERT_EQ(bad->field_violations_size(), 1);
  EXPECT_EQ(bad->field_violations(0).field(), "temperature");
  EXPECT_EQ(bad->field_violations(0).description(), message);
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(details)->reason(), "INVALID_ARGUMENT");
  EXPECT_FALSE(Detail<google::rpc::RetryInfo>(details).has_value());
  // A word that is no field is none; nor is one in an error that is not about the request.
  EXPECT_FALSE(Detail<google::rpc::BadRequest>(DetailsOf(absl::InvalidArgumentError("nothing to go on"))).has_value());
  EXPECT_FALSE(Detail<google::rpc::BadRequest>(DetailsOf(absl::InternalError("prompt is lost"))).has_value());
}

TEST(ErrorDetails, TellAReasonThatTheRouterGave) {
  const absl::Status status =
      WithReason(WithField(absl::InvalidArgumentError("too long"), "messages"), "context_length_exceeded");
  const google::rpc::Status details = DetailsOf(status);
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(details)->reason(), "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_EQ(Detail<google::rpc::BadRequest>(details)->field_violations(0).field(), "messages");
}

TEST(ErrorDetails, TellWhichLimitAKeyIsAt) {
  const absl::Status status =
      WithReason(absl::ResourceExhaustedError("API key 'a' is at its limit"), kRateLimitExceeded);
  const auto failure = Detail<google::rpc::QuotaFailure>(DetailsOf(status));
  ASSERT_TRUE(failure.has_value());
  ASSERT_EQ(failure->violations_size(), 1);
  EXPECT_EQ(failure->violations(0).subject(), "API key");
  EXPECT_EQ(failure->violations(0).description(), "API key 'a' is at its limit");
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(DetailsOf(status))->reason(), "RATE_LIMIT_EXCEEDED");
}

TEST(ErrorDetails, StayWithinWhatClientsTake) {
  const absl::Status status = absl::InvalidArgumentError(std::string(100'000, 'x'));
  EXPECT_LT(ToClientStatus(status).error_details().size(), 5000u);
  EXPECT_TRUE(ToClientStatus(absl::OkStatus()).ok());
  EXPECT_EQ(ToClientStatus(absl::OkStatus()).error_details(), "");
}

}  // namespace
}  // namespace outrider::router
