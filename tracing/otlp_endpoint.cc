#include "tracing/otlp_endpoint.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

absl::Status Wrong(absl::string_view text, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("otlp_endpoint '", text, "' ", what,
                                                 "; it is HOST:PORT, https://HOST:PORT or unix:PATH of a collector "
                                                 "that takes OTLP over gRPC, usually at port 4317"));
}

}  // namespace

absl::StatusOr<OtlpEndpoint> ParseOtlpEndpoint(absl::string_view text) {
  OtlpEndpoint endpoint;
  absl::string_view rest = text;
  if (absl::StartsWith(rest, "unix:")) {
    if (rest.size() == 5) return Wrong(text, "has no path");
    endpoint.address = std::string(rest);
    return endpoint;
  }
  endpoint.tls = absl::StartsWith(rest, "https://");
  if (endpoint.tls) {
    rest.remove_prefix(8);
  } else if (absl::StartsWith(rest, "http://")) {
    rest.remove_prefix(7);
  }
  if (absl::EndsWith(rest, "/")) rest.remove_suffix(1);
  if (absl::StrContains(rest, '/')) return Wrong(text, "has a path, as OTLP over HTTP has");
  const size_t colon = rest.rfind(':');
  int port;
  if (colon == absl::string_view::npos || colon == 0 || !absl::SimpleAtoi(rest.substr(colon + 1), &port) || port < 1 ||
      port > 65535) {
    return Wrong(text, "has no host or no port from 1 to 65535");
  }
  endpoint.address = std::string(rest);
  return endpoint;
}

}  // namespace outrider
