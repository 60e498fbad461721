// How a command that calls a router says whom it believes, and who it is.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "security/tls.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace outrider {

struct ClientAccess {
  bool tls = false;  // or any file is given
  TlsFiles files;
  std::string api_key;  // empty: none
};

// --tls, --tls-authorities, --tls-certificate, --tls-private-key.
void AddTlsFlags(CLI::App& command, ClientAccess& access);
// Those, and --api-key or OUTRIDER_API_KEY.
void AddAccessFlags(CLI::App& command, ClientAccess& access);

// What to call a router with. gRPC writes nothing to standard error from then on. INVALID_ARGUMENT naming the file that
// is wrong.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const ClientAccess& access);

// To the router at `address`; calls carry the key. Takes answers as large as a router sends.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const std::string& address, const ClientAccess& access);

}  // namespace outrider
