#include "cli/client_access.h"

#include <grpc/support/log.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_interceptor.h>

#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

// What a client may say is in its statuses. Unless GRPC_VERBOSITY asks for more.
void QuietenGrpc() {
  if (std::getenv("GRPC_VERBOSITY") == nullptr) gpr_set_log_function([](gpr_log_func_args*) {});
}

constexpr int kMaxMessageBytes = 64 << 20;

// Adds the key to what a call sends first. gRPC's own call credentials want TLS, which a socket or a loopback needs
// not.
class SendApiKey final : public grpc::experimental::Interceptor {
 public:
  explicit SendApiKey(const std::string& authorization) : authorization_(authorization) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", authorization_);
    }
    methods->Proceed();
  }

 private:
  const std::string& authorization_;  // the factory's
};

class ApiKeySenders final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit ApiKeySenders(const std::string& api_key) : authorization_(absl::StrCat("Bearer ", api_key)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo*) override {
    return new SendApiKey(authorization_);
  }

 private:
  const std::string authorization_;
};

}  // namespace

void AddTlsFlags(CLI::App& command, ClientAccess& access) {
  command.add_flag("--tls", access.tls, "Speak TLS to the router and believe this system's authorities");
  command
      .add_option("--tls-authorities", access.files.authorities, "PEM file: speak TLS and believe these authorities")
      ->type_name("FILE");
  command
      .add_option("--tls-certificate", access.files.certificate, "PEM file: what to show a router that asks who calls")
      ->type_name("FILE");
  command.add_option("--tls-private-key", access.files.private_key, "PEM file: the certificate's key")
      ->type_name("FILE");
}

void AddAccessFlags(CLI::App& command, ClientAccess& access) {
  AddTlsFlags(command, access);
  command
      .add_option("--api-key", access.api_key,
                  "Key for a router that asks for one; better in OUTRIDER_API_KEY, where other users do not see it")
      ->envname("OUTRIDER_API_KEY")
      ->type_name("KEY");
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const ClientAccess& access) {
  QuietenGrpc();
  RETURN_IF_ERROR(CheckTlsFiles(access.files, "tls"));
  if (!access.tls && access.files.empty()) return grpc::InsecureChannelCredentials();
  return TlsChannel(access.files, TlsPeer::kNamed);
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const std::string& address, const ClientAccess& access) {
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ChannelCredentials> credentials, Credentials(access));
  for (const char c : access.api_key) {
    if (c < 0x21 || c > 0x7e) {
      return absl::InvalidArgumentError(
          "the API key has a byte that no key has; is it quoted, or does it end in a line end?");
    }
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> senders;
  if (!access.api_key.empty()) senders.push_back(std::make_unique<ApiKeySenders>(access.api_key));
  return grpc::experimental::CreateCustomChannelWithInterceptors(address, credentials, arguments, std::move(senders));
}

}  // namespace outrider
