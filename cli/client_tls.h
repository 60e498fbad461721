// How a command that calls a router says whom it believes, and who it is.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>

#include "absl/status/statusor.h"
#include "security/tls.h"

namespace outrider {

struct ClientTls {
  bool on = false;  // or any file is given
  TlsFiles files;
};

// --tls, --tls-authorities, --tls-certificate, --tls-private-key.
void AddTlsFlags(CLI::App& command, ClientTls& tls);

// What to call a router with. gRPC writes nothing to standard error from then on. INVALID_ARGUMENT naming the file that
// is wrong.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const ClientTls& tls);

}  // namespace outrider
