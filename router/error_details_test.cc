#include "router/error_details.h"

#include <gtest/gtest.h>

#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "router/retry_after.h"

namespace outrider::router {
namespace {

TEST(ErrorDetails, TellTheRetryTimeInThePublishedForm) {
  const absl::Status refused =
      WithRetryAfter(absl::ResourceExhaustedError("the queue is full"), std::chrono::milliseconds(1250));
  const grpc::Status status = ToClientStatus(refused);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), 8);
  EXPECT_EQ(details.message(), "the queue is full");
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
  google::rpc::RetryInfo info;
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.retry_delay().seconds(), 1);
  EXPECT_EQ(info.retry_delay().nanos(), 250'000'000);
  // The bytes as googleapis' definitions give them: code, message, details{type_url, value{retry_delay{seconds,
  // nanos}}}.
  EXPECT_EQ(status.error_details(),
            std::string("\x08\x08\x12\x11the queue is full\x1a\x35\x0a\x28type.googleapis.com/google.rpc.RetryInfo"
                        "\x12\x09\x0a\x07\x08\x01\x10\x80\xe5\x9a\x77",
                        76));
}

TEST(ErrorDetails, AreThereOnlyWhereATimeIsKnown) {
  EXPECT_TRUE(ToClientStatus(absl::OkStatus()).ok());
  EXPECT_EQ(ToClientStatus(absl::InvalidArgumentError("no")).error_details(), "");
  EXPECT_NE(ToClientStatus(absl::UnavailableError("gone")).error_details(), "");
}

}  // namespace
}  // namespace outrider::router
