#include "worker/rpc/status_conversions.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

TEST(StatusConversions, KeepEveryCodeAndItsMessage) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status wire = ToGrpcStatus(status);
    EXPECT_EQ(static_cast<int>(wire.error_code()), code);
    EXPECT_EQ(FromGrpcStatus(wire), status);
  }
  EXPECT_TRUE(FromGrpcStatus(ToGrpcStatus(absl::OkStatus())).ok());
}

TEST(StatusConversions, TakeCodesThatDoNotExistAsUnknown) {
  EXPECT_EQ(StatusCodeFromWire(17), absl::StatusCode::kUnknown);
  EXPECT_EQ(StatusCodeFromWire(4000000000u), absl::StatusCode::kUnknown);
  EXPECT_EQ(StatusCodeFromWire(0), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace outrider
