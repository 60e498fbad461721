// A status for a client, with the time after which to come again in both ways that clients look for: the trailing
// metadata grpc-retry-pushback-ms (gRPC's retry design, A6) and google.rpc.RetryInfo in grpc-status-details-bin.
//
// Thread safety: pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"
#include "base/clock.h"

namespace outrider::router {

// `status` as google.rpc.Status with a RetryInfo in it, serialized. REQUIRES: !status.ok().
std::string SerializeRetryInfo(const grpc::Status& status, Duration retry_after);

// As ToGrpcStatus; where RetryAfterOf(status) tells a time, with the details.
grpc::Status ToClientStatus(const absl::Status& status);

}  // namespace outrider::router
