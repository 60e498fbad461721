// absl::Status <-> grpc::Status. The codes are the same numbers; messages pass unchanged.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace outrider {

grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

// The status of a code that came over the wire; codes that do not exist become UNKNOWN. 0 is OK.
absl::StatusCode StatusCodeFromWire(uint32_t code);

}  // namespace outrider
