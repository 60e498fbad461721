#include "worker/rpc/status_conversions.h"

#include <string>

namespace outrider {

absl::StatusCode StatusCodeFromWire(uint32_t code) {
  constexpr uint32_t kLastCode = static_cast<uint32_t>(absl::StatusCode::kUnauthenticated);
  return code <= kLastCode ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(StatusCodeFromWire(static_cast<uint32_t>(status.error_code())), status.error_message());
}

}  // namespace outrider
