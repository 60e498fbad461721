#include "router/router_server.h"

#include <grpcpp/ext/channelz_service_plugin.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/listening.h"
#include "base/log.h"
#include "base/processors.h"
#include "base/status_macros.h"
#include "router/stats_line.h"
#include "router/vllm_aliases.h"
#include "tracing/start_tracing.h"

namespace outrider::router {
namespace {

constexpr Duration kHealthInterval = std::chrono::milliseconds(50);
// A client that vanished without a word is found after about their sum, and its requests are freed.
constexpr int kKeepaliveTimeMs = 20'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
constexpr int kHeartbeatBytesMax = 1 << 20;
constexpr const char* kServices[] = {"", "outrider.v1.Inference", "outrider.v1.Cluster", "readiness"};
constexpr const char* kLivenessService = "liveness";

TlsFiles TlsOf(const v1::RouterConfig& config) {
  return {.certificate = config.tls_certificate(),
          .private_key = config.tls_private_key(),
          .authorities = config.tls_authorities()};
}

absl::Status CheckConfig(const v1::RouterConfig& config) {
  if (config.metrics_compat() != "vllm" && config.metrics_compat() != "none") {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics_compat is '", config.metrics_compat(), "'; it may be vllm or none"));
  }
  if (config.grpc_port() > 65535 || config.metrics_port() > 65535 || config.http_port() > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("grpc_port = ", config.grpc_port(),
                                                   ", metrics_port = ", config.metrics_port(),
                                                   " and http_port = ", config.http_port(), ": ports are 0 to 65535"));
  }
  if (config.max_http_connections() == 0 || config.max_http_connections() > (1u << 20) ||
      config.sse_ping_interval_ms() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_http_connections = ", config.max_http_connections(), " must be 1 to ", 1u << 20,
                     ", sse_ping_interval_ms = ", config.sse_ping_interval_ms(), " above 0"));
  }
  if (config.heartbeat_interval_ms() == 0 || config.worker_timeout_ms() < 2 * config.heartbeat_interval_ms()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "worker_timeout_ms = ", config.worker_timeout_ms(), " must be at least twice heartbeat_interval_ms = ",
        config.heartbeat_interval_ms(), ", which must be above 0; one late heartbeat is not a loss"));
  }
  if (config.max_stream_buffer_bytes() == 0 || config.max_queued_requests() == 0 || config.max_message_bytes() == 0 ||
      config.max_message_bytes() > (1u << 30)) {
    return absl::InvalidArgumentError(absl::StrCat("max_stream_buffer_bytes = ", config.max_stream_buffer_bytes(),
                                                   ", max_queued_requests = ", config.max_queued_requests(),
                                                   " and max_message_bytes = ", config.max_message_bytes(),
                                                   " must be above 0, the last at most ", 1u << 30));
  }
  RETURN_IF_ERROR(CheckTlsFiles(TlsOf(config), "tls"));
  if (!config.tls_authorities().empty() && config.tls_certificate().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("tls_authorities '", config.tls_authorities(),
                                                   "' asks clients who they are, which needs a server with "
                                                   "tls_certificate and tls_private_key"));
  }
  if (config.cluster_host().empty() && (!config.tls_certificate().empty() || !config.link_certificate().empty())) {
    return absl::InvalidArgumentError(
        "cluster_host is empty: with tls_certificate or link_certificate workers register at a server of their own; "
        "give its address, or unix:PATH");
  }
  if (config.cluster_host().empty() && !config.api_keys().empty()) {
    return absl::InvalidArgumentError(
        "cluster_host is empty: with api_keys workers register at a server of their own, since they have no keys; give "
        "its address, or unix:PATH");
  }
  if (config.admin_port() > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("admin_port = ", config.admin_port(), ": ports are 0 to 65535"));
  }
  if (config.cluster_port() > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("cluster_port = ", config.cluster_port(), ": ports are 0 to 65535"));
  }
  if (config.priority_ageing_ms() == 0 || config.replay_burst() == 0 || !(config.replays_per_second() > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("priority_ageing_ms = ", config.priority_ageing_ms(), ", replay_burst = ", config.replay_burst(),
                     " and replays_per_second = ", config.replays_per_second(), " must be above 0"));
  }
  return absl::OkStatus();
}

DispatchQueue::Options DispatchOptions(const v1::RouterConfig& config) {
  return {
      .admission = {.max_queued_requests = static_cast<int>(config.max_queued_requests()),
                    .max_queued_tokens = static_cast<int64_t>(config.max_queued_tokens()),
                    .queue_timeout = FromMillis(config.queue_timeout_ms()),
                    .replay_wait = FromMillis(config.replay_wait_ms()),
                    .priority_ageing = FromMillis(config.priority_ageing_ms())},
      .registry = {.worker_timeout = FromMillis(config.worker_timeout_ms()),
                   .draft_workers_per_group = static_cast<int>(config.draft_workers_per_group())},
      .retry_budget = {.burst = static_cast<double>(config.replay_burst()), .per_second = config.replays_per_second()}};
}

// `address` becomes where it listens.
absl::StatusOr<std::unique_ptr<grpc::Server>> Listen(const std::string& host, uint32_t port, const char* port_setting,
                                                     const std::vector<grpc::Service*>& services,
                                                     const std::shared_ptr<grpc::ServerCredentials>& credentials,
                                                     int max_message_bytes, std::string& address) {
  RETURN_IF_ERROR(CheckCanListen(host, static_cast<int>(port), port_setting));
  grpc::ServerBuilder builder;
  // Without this two processes could share a port and each get half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Workers ask an idle connection whether the router lives (worker/rpc/registration_client.cc).
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.SetMaxReceiveMessageSize(max_message_bytes);
  builder.SetMaxSendMessageSize(-1);
  const bool is_unix = absl::StartsWith(host, "unix:");
  const std::string wanted = is_unix ? host : absl::StrCat(host, ":", port);
  int bound_port = 0;
  builder.AddListeningPort(wanted, credentials, &bound_port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || bound_port == 0) {
    return absl::UnavailableError(
        is_unix ? absl::StrCat("can not listen on ", wanted, ": is the folder there and writable?")
                : absl::StrCat("can not listen on ", wanted, ": port ", port,
                               " is in use or the host is not this machine's; choose another ", port_setting,
                               ", or 0 for a free one"));
  }
  address = is_unix ? host : absl::StrCat(host, ":", bound_port);
  return server;
}

HttpServer::Options HttpOptions(const v1::RouterConfig& config, TlsContext* tls) {
  return {.host = config.host(),
          .port = config.http_port(),
          .num_threads = std::clamp(NumUsableProcessors() / 4, 2, 8),
          .max_connections = static_cast<int>(config.max_http_connections()),
          .max_body_bytes = config.max_message_bytes(),
          .max_all_body_bytes = std::max<size_t>(size_t{256} << 20, 4 * size_t{config.max_message_bytes()}),
          .quiet_interval = FromMillis(config.sse_ping_interval_ms()),
          .tls = tls};
}

}  // namespace

RouterServer::RouterServer(const v1::RouterConfig& config, std::shared_ptr<const LinkSecurity> links,
                           std::unique_ptr<MetricsRegistry> registry, std::unique_ptr<RouterMetrics> metrics,
                           std::unique_ptr<RequestLog> request_log, std::unique_ptr<ApiAccess> access,
                           std::unique_ptr<Tracer> tracer)
    : config_(config),
      links_(std::move(links)),
      metrics_registry_(std::move(registry)),
      metrics_(std::move(metrics)),
      request_log_(std::move(request_log)),
      access_(std::move(access)),
      tracer_(std::move(tracer)),
      dispatcher_(DispatchOptions(config), &clock_, metrics_.get(), links_.get()),
      inference_service_(Environment()),
      cluster_service_(&dispatcher_, config.heartbeat_interval_ms()) {}

CallEnvironment RouterServer::Environment() {
  return {.dispatcher = &dispatcher_,
          .metrics = metrics_.get(),
          .calls = &calls_,
          .request_log = request_log_.get(),
          .clock = &clock_,
          .access = access_.get(),
          .max_stream_buffer_bytes = config_.max_stream_buffer_bytes(),
          .tracer = tracer_.get()};
}

absl::StatusOr<std::unique_ptr<RouterServer>> RouterServer::Start(const v1::RouterConfig& config) {
  RETURN_IF_ERROR(CheckConfig(config));
  ASSIGN_OR_RETURN(std::shared_ptr<const LinkSecurity> links,
                   LinkSecurity::Create({.certificate = config.link_certificate(),
                                         .private_key = config.link_private_key(),
                                         .authorities = config.link_authorities()},
                                        config.allow_insecure_links()));
  const bool registers_apart = !config.cluster_host().empty();
  // A public server that takes registrations is a listener of links.
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ServerCredentials> cluster_credentials,
                   links->ForListener(registers_apart ? config.cluster_host() : config.host(),
                                      registers_apart ? "cluster_host" : "cluster_host is empty and host"));
  static const bool plugins_ready = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  (void)plugins_ready;

  auto registry = std::make_unique<MetricsRegistry>();
  auto metrics = std::make_unique<RouterMetrics>(*registry);
  if (config.metrics_compat() == "vllm") registry->AppendToText(VllmAliases);
  ASSIGN_OR_RETURN(std::unique_ptr<RequestLog> request_log, RequestLog::Open(config.request_log(), metrics.get()));
  static const SystemClock access_clock;
  ASSIGN_OR_RETURN(std::unique_ptr<ApiAccess> access, ApiAccess::Open(config.api_keys(), &access_clock));
  ASSIGN_OR_RETURN(std::unique_ptr<Tracer> tracer, StartTracing(config.otlp_endpoint(), config.otlp_sample_ratio(),
                                                                {.service = "outrider-router"}, *registry));
  std::unique_ptr<RouterServer> router(new RouterServer(config, std::move(links), std::move(registry),
                                                        std::move(metrics), std::move(request_log), std::move(access),
                                                        std::move(tracer)));
  const std::string metrics_host = config.metrics_host().empty() ? config.host() : config.metrics_host();
  ASSIGN_OR_RETURN(router->metrics_server_, MetricsServer::Start(metrics_host, static_cast<int>(config.metrics_port()),
                                                                 *router->metrics_registry_, &router->health_));
  router->metrics_address_ = metrics_host;
  if (const int port = router->metrics_server_->port(); port > 0) {
    absl::StrAppend(&router->metrics_address_, ":", port);
  }

  std::vector<std::string> names = {"outrider.v1.Inference", "grpc.health.v1.Health",
                                    "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"};
  if (!registers_apart) names.push_back("outrider.v1.Cluster");
  if (config.vllm_engine()) names.push_back("vllm.grpc.engine.VllmEngine");
  router->reflection_service_ = std::make_unique<ReflectionService>(std::move(names));
  std::vector<grpc::Service*> services = {&router->inference_service_, router->reflection_service_.get()};
  if (config.vllm_engine()) {
    router->vllm_service_ = std::make_unique<VllmEngineService>(router->Environment());
    services.push_back(router->vllm_service_.get());
  }
  if (!registers_apart) services.push_back(&router->cluster_service_);
  if (!config.api_keys().empty() && config.tls_certificate().empty() && !IsLocalHost(config.host())) {
    LogWarning("host ", config.host(),
               " can be reached from other machines and has no tls_certificate: API keys cross the "
               "network readable by whoever is on the way");
  }
  ASSIGN_OR_RETURN(router->server_, Listen(config.host(), config.grpc_port(), "grpc_port", services,
                                           config.tls_certificate().empty() ? grpc::InsecureServerCredentials()
                                                                            : TlsServer(TlsOf(config)),
                                           static_cast<int>(config.max_message_bytes()), router->grpc_address_));
  router->cluster_address_ = router->grpc_address_;
  if (registers_apart) {
    ASSIGN_OR_RETURN(router->cluster_server_,
                     Listen(config.cluster_host(), config.cluster_port(), "cluster_port", {&router->cluster_service_},
                            cluster_credentials, kHeartbeatBytesMax, router->cluster_address_));
  }
  if (config.has_admin_port()) {
    // Whatever gRPC server is built from now on has channelz, so this is the last.
    static const bool channelz_ready = [] {
      grpc::channelz::experimental::InitChannelzService();
      return true;
    }();
    (void)channelz_ready;
    ASSIGN_OR_RETURN(router->admin_server_,
                     Listen(config.admin_host(), config.admin_port(), "admin_port", {},
                            grpc::InsecureServerCredentials(), kHeartbeatBytesMax, router->admin_address_));
    LogInfo("channelz on ", router->admin_address_);
  }
  grpc::HealthCheckServiceInterface* const health = router->server_->GetHealthCheckService();
  for (const char* service : kServices) health->SetServingStatus(service, false);
  router->health_.Set([r = router.get()] { return r->dispatcher_.Turns() ? "" : "the dispatcher does not turn"; },
                      [r = router.get()] {
                        if (r->calls_.draining()) return "draining";
                        return r->told_serving_ ? "" : "no group takes requests";
                      });
  router->api_ = std::make_unique<ApiHandler>(
      ApiHandler::Options{.environment = router->Environment(),
                          .model_names = absl::StrSplit(config.served_model_name(), ',', absl::SkipEmpty()),
                          .metrics_text = [r = router.get()] { return r->MetricsText(); },
                          .why_not_ready = [r = router.get()] { return r->health_.WhyNotReady(); }});
  if (!config.tls_certificate().empty()) {
    ASSIGN_OR_RETURN(router->http_tls_, TlsContext::Create(TlsOf(config), &router->clock_));
  }
  // HTTP clients come by TCP: a router on a socket of the file system has gRPC alone.
  if (!absl::StartsWith(config.host(), "unix:")) {
    ASSIGN_OR_RETURN(router->http_server_,
                     HttpServer::Start(HttpOptions(config, router->http_tls_.get()), router->api_.get()));
  }
  router->health_thread_ = std::thread([r = router.get()] { r->WatchHealth(); });
  LogInfo("listens on ", router->grpc_address_, config.tls_certificate().empty() ? "" : " (TLS)",
          registers_apart ? "; workers register at " : "", registers_apart ? router->cluster_address_ : "",
          registers_apart && router->links_->mutual() ? " (TLS)" : "",
          router->http_server_ == nullptr ? "" : "; HTTP API at ", router->http_address(), "; metrics at ",
          router->metrics_address_, "/metrics");
  return router;
}

RouterServer::~RouterServer() {
  health_.Suspend("stopping");
  calls_.StartDrain();
  {
    MutexLock lock(mu_);
    stopped_ = true;
    stopped_changed_.NotifyAll();
  }
  if (health_thread_.joinable()) health_thread_.join();
  if (admin_server_ != nullptr) {
    admin_server_->Shutdown(std::chrono::system_clock::now());
    admin_server_->Wait();
  }
  if (cluster_server_ != nullptr) {
    cluster_server_->Shutdown(std::chrono::system_clock::now());
    cluster_server_->Wait();
  }
  if (server_ != nullptr) {
    // Open calls are cancelled, and their ends are waited for.
    if (http_server_ != nullptr) http_server_->Shutdown();
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    calls_.AwaitNone();
    http_server_.reset();
    server_.reset();
  }
}

void RouterServer::WatchHealth() {
  grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
  bool told_live = false;
  StatsLine stats(clock_.Now());
  while (true) {
    if (const TimePoint now = clock_.Now(); stats.IsDue(now)) {
      if (const auto line = stats.Tell(now, metrics_->CurrentTraffic())) LogInfo(*line);
    }
    if (const bool live = dispatcher_.Turns(); live != told_live) {
      health->SetServingStatus(kLivenessService, live);
      told_live = live;
    }
    const bool serving = !calls_.draining() && dispatcher_.Serving();
    if (serving != told_serving_) {
      for (const char* service : kServices) health->SetServingStatus(service, serving);
      LogInfo(serving ? "serves" : "does not serve now");
      told_serving_ = serving;
    }
    MutexLock lock(mu_);
    const TimePoint next = clock_.Now() + kHealthInterval;
    while (!stopped_ && stopped_changed_.WaitUntil(mu_, next)) {
    }
    if (stopped_) return;
  }
}

void RouterServer::EndOpenCalls() {
  calls_.EndAll(
      absl::UnavailableError("this router ends, and the request did not within drain_timeout_ms; send it again"));
}

void RouterServer::StartDrain() {
  calls_.StartDrain();
  if (http_server_ != nullptr) http_server_->StartDrain();
  MutexLock lock(mu_);
  stopped_changed_.NotifyAll();
}

}  // namespace outrider::router
