// A status for a client of gRPC, with what programs want to know of it in the forms that clients look for: google.rpc
// messages in grpc-status-details-bin (google/rpc/error_details.proto, AIP-193), and the time after which to come again
// also as the trailing metadata grpc-retry-pushback-ms (gRPC's retry design, A6), which the caller adds.
//
//   ErrorInfo     always: domain "outrider", reason ReasonOf(status) or else the code, in capitals
//   BadRequest    INVALID_ARGUMENT about a field (FieldOf)
//   QuotaFailure  an API key at one of its limits
//   RetryInfo     where RetryAfterOf(status) tells a time
//
// Thread safety: pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace outrider::router {

// As ToGrpcStatus, with the details. Messages beyond 2 KiB are cut in them, so that both fit what clients take.
grpc::Status ToClientStatus(const absl::Status& status);

}  // namespace outrider::router
