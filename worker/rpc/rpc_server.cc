#include "worker/rpc/rpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <sys/un.h>
#include <unistd.h>

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/listening.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

constexpr Duration kHealthInterval = std::chrono::milliseconds(100);
constexpr int kKeepaliveTimeMs = 20'000;
constexpr int kKeepaliveTimeoutMs = 10'000;

// unix:PATH names a socket; it has no port.
constexpr std::string_view kUnixPrefix = "unix:";
bool IsUnix(const std::string& host) { return host.rfind(kUnixPrefix, 0) == 0; }

// What the system allows a socket's path.
constexpr size_t kSocketPathMax = sizeof(sockaddr_un::sun_path) - 1;

bool IsWildcard(const std::string& host) { return host == "0.0.0.0" || host == "::" || host == "[::]"; }

}  // namespace

RpcServer::RpcServer(std::string host, std::vector<std::string> service_names, std::function<bool()> serving,
                     std::function<bool()> live)
    : host_(std::move(host)),
      service_names_(std::move(service_names)),
      serving_(std::move(serving)),
      live_(std::move(live)) {}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcServerOptions& options,
                                                            const std::vector<grpc::Service*>& services,
                                                            const std::vector<std::string>& service_names,
                                                            std::function<bool()> serving, std::function<bool()> live) {
  static const bool plugins_ready = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  (void)plugins_ready;

  if (IsUnix(options.host) && options.host.size() - kUnixPrefix.size() > kSocketPathMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("can not listen on ", options.host, ": the path has ", options.host.size() - kUnixPrefix.size(),
                     " bytes and a socket's at most ", kSocketPathMax, "; use a shorter one (setting host)"));
  }
  std::vector<std::string> names = service_names;
  names.push_back(kReadinessService);
  auto server =
      std::unique_ptr<RpcServer>(new RpcServer(options.host, std::move(names), std::move(serving), std::move(live)));
  const std::string address = IsUnix(options.host) ? options.host : absl::StrCat(options.host, ":", options.port);
  std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
  if (options.security != nullptr) {
    ASSIGN_OR_RETURN(credentials, options.security->ForListener(options.host, "host"));
  }
  RETURN_IF_ERROR(CheckCanListen(options.host, options.port, "grpc_port"));
  grpc::ServerBuilder builder;
  // Without this two processes could share a port and each get half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A router or a group that vanished without a word is found after their sum, and what runs for it is freed.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Peers may ask an idle connection whether it lives (draft_link.cc, router/target_client.cc).
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.SetMaxSendMessageSize(-1);
  builder.AddListeningPort(address, credentials, &server->port_);
  for (grpc::Service* service : services) builder.RegisterService(service);
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || server->port_ == 0) {
    return absl::UnavailableError(
        IsUnix(options.host) ? absl::StrCat("can not listen on ", address, ": is the folder there and writable?")
                             : absl::StrCat("can not listen on ", address, ": port ", options.port,
                                            " is in use (setting grpc_port), or the host is not this machine's"));
  }
  grpc::HealthCheckServiceInterface* const health = server->server_->GetHealthCheckService();
  health->SetServingStatus(false);
  for (const std::string& name : server->service_names_) health->SetServingStatus(name, false);
  health->SetServingStatus(kLivenessService, true);
  server->health_thread_ = std::thread([s = server.get()] { s->WatchHealth(); });
  return server;
}

RpcServer::~RpcServer() { Shutdown(Duration::zero()); }

std::string RpcServer::address() const {
  std::string host = host_;
  if (IsWildcard(host)) {
    char name[256] = {};
    if (gethostname(name, sizeof(name) - 1) == 0) host = name;
  }
  return IsUnix(host) ? host : absl::StrCat(host, ":", port_);
}

void RpcServer::WatchHealth() {
  grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
  bool told = false;
  bool told_live = true;
  while (true) {
    if (const bool live = !live_ || live_(); live != told_live) {
      health->SetServingStatus(kLivenessService, live);
      told_live = live;
    }
    const bool serving = serving_();
    if (serving != told) {
      health->SetServingStatus("", serving);
      for (const std::string& name : service_names_) health->SetServingStatus(name, serving);
      told = serving;
    }
    MutexLock lock(mu_);
    const TimePoint next = std::chrono::steady_clock::now() + kHealthInterval;
    while (!stopped_ && stopped_changed_.WaitUntil(mu_, next)) {
    }
    if (stopped_) return;
  }
}

void RpcServer::Shutdown(Duration grace) {
  {
    MutexLock lock(mu_);
    if (stopped_) return;
    stopped_ = true;
    stopped_changed_.NotifyAll();
  }
  if (server_ == nullptr) return;
  if (health_thread_.joinable()) health_thread_.join();
  if (auto* health = server_->GetHealthCheckService()) health->Shutdown();
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::duration_cast<std::chrono::microseconds>(grace));
}

}  // namespace outrider
