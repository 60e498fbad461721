// RouterServer is the router put together: the gRPC server with Inference, grpc.health.v1 and reflection, the one that
// workers register at (Cluster; the same if cluster_host is empty), the metrics page, and what they share.
//
// Health is tied to progress: a thread asks the dispatcher about every 50 ms; SERVING only while at least one group
// takes requests and the dispatcher turns; the service "liveness" while it turns.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/health.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "proto/config.pb.h"
#include "router/api_access.h"
#include "router/call_registry.h"
#include "router/cluster_service.h"
#include "router/dispatcher.h"
#include "router/http/api_handler.h"
#include "router/http/http_server.h"
#include "router/inference_service.h"
#include "router/reflection_service.h"
#include "router/request_log.h"
#include "router/router_metrics.h"
#include "router/vllm_engine_service.h"
#include "security/link_security.h"
#include "security/tls_context.h"
#include "tracing/tracer.h"

namespace grpc {
class Server;
}  // namespace grpc

namespace outrider::router {

class RouterServer {
 public:
  // Errors: INVALID_ARGUMENT for settings that can not work together or let strangers in, UNAVAILABLE naming a port
  // that is in use.
  static absl::StatusOr<std::unique_ptr<RouterServer>> Start(const v1::RouterConfig& config);
  // Ends what is open, at once.
  ~RouterServer();
  RouterServer(const RouterServer&) = delete;
  RouterServer& operator=(const RouterServer&) = delete;

  const std::string& grpc_address() const { return grpc_address_; }
  // Where workers register.
  const std::string& cluster_address() const { return cluster_address_; }
  const std::string& metrics_address() const { return metrics_address_; }
  // Empty without admin_port.
  const std::string& admin_address() const { return admin_address_; }
  // Empty if the host is a unix: socket.
  std::string http_address() const { return http_server_ == nullptr ? "" : http_server_->address(); }

  // Takes no new requests and reports NOT_SERVING; those that are open go on.
  void StartDrain();
  // The metrics page.
  std::string MetricsText() const { return metrics_registry_->ToText(); }
  // Ends what is open with UNAVAILABLE, after what its clients have coming.
  void EndOpenCalls();
  int num_open_calls() const { return calls_.num_open(); }

 private:
  RouterServer(const v1::RouterConfig& config, std::shared_ptr<const LinkSecurity> links,
               std::unique_ptr<MetricsRegistry> registry, std::unique_ptr<RouterMetrics> metrics,
               std::unique_ptr<RequestLog> request_log, std::unique_ptr<ApiAccess> access,
               std::unique_ptr<Tracer> tracer);
  void WatchHealth();

  const v1::RouterConfig config_;
  CallEnvironment Environment();

  const std::shared_ptr<const LinkSecurity> links_;
  const SystemClock clock_;
  const std::unique_ptr<MetricsRegistry> metrics_registry_;
  const std::unique_ptr<RouterMetrics> metrics_;
  const std::unique_ptr<RequestLog> request_log_;
  const std::unique_ptr<ApiAccess> access_;
  const std::unique_ptr<Tracer> tracer_;  // null: nothing is recorded
  CallRegistry calls_;
  Dispatcher dispatcher_;
  InferenceService inference_service_;
  std::unique_ptr<ReflectionService> reflection_service_;
  std::unique_ptr<VllmEngineService> vllm_service_;  // null: not spoken
  ClusterService cluster_service_;
  ProcessHealth health_;
  std::atomic<bool> told_serving_{false};  // what grpc.health.v1 says, so that the health pages say the same
  std::unique_ptr<MetricsServer> metrics_server_;
  std::string grpc_address_;
  std::string cluster_address_;
  std::string admin_address_;
  std::string metrics_address_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::Server> admin_server_;    // null: none
  std::unique_ptr<grpc::Server> cluster_server_;  // null: cluster_service_ is in server_
  std::unique_ptr<ApiHandler> api_;
  std::unique_ptr<TlsContext> http_tls_;  // null: none
  std::unique_ptr<HttpServer> http_server_;
  std::thread health_thread_;

  Mutex mu_;
  CondVar stopped_changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace outrider::router
