#include "cli/client_tls.h"

#include <grpc/support/log.h>
#include <grpcpp/grpcpp.h>

#include <cstdlib>

#include "base/status_macros.h"

namespace outrider {
namespace {

// What a client may say is in its statuses. Unless GRPC_VERBOSITY asks for more.
void QuietenGrpc() {
  if (std::getenv("GRPC_VERBOSITY") == nullptr) gpr_set_log_function([](gpr_log_func_args*) {});
}

}  // namespace

void AddTlsFlags(CLI::App& command, ClientTls& tls) {
  command.add_flag("--tls", tls.on, "Speak TLS to the router and believe this system's authorities");
  command.add_option("--tls-authorities", tls.files.authorities, "PEM file: speak TLS and believe these authorities")
      ->type_name("FILE");
  command.add_option("--tls-certificate", tls.files.certificate, "PEM file: what to show a router that asks who calls")
      ->type_name("FILE");
  command.add_option("--tls-private-key", tls.files.private_key, "PEM file: the certificate's key")->type_name("FILE");
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const ClientTls& tls) {
  QuietenGrpc();
  RETURN_IF_ERROR(CheckTlsFiles(tls.files, "tls"));
  if (!tls.on && tls.files.empty()) return grpc::InsecureChannelCredentials();
  return TlsChannel(tls.files, TlsPeer::kNamed);
}

}  // namespace outrider
