// The address of a collector, as the setting otlp_endpoint gives it. Pure.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace outrider {

// Where a collector listens.
struct OtlpEndpoint {
  std::string address;  // as gRPC knows it
  bool tls = false;     // the collector shows a certificate that this system's authorities have signed
};
// HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:PATH. INVALID_ARGUMENT naming what is wrong.
absl::StatusOr<OtlpEndpoint> ParseOtlpEndpoint(absl::string_view text);

}  // namespace outrider
