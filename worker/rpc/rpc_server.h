// RpcServer is a worker's gRPC server: its services, grpc.health.v1 and reflection on one port.
//
// Health is tied to progress: a thread asks about every 100 ms and tells grpc.health.v1. Whether the process takes work
// ("readiness", the server as a whole "", and each service by name) and whether its loop turns ("liveness") are apart.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "security/link_security.h"

namespace grpc {
class Server;
class Service;
}  // namespace grpc

namespace outrider {

struct RpcServerOptions {
  std::string host;  // or unix:PATH, which has no port
  int port = 0;      // 0 takes a free one
  // Frames beyond are refused by gRPC: RESOURCE_EXHAUSTED for the call. A prompt of 4 M ids fits.
  int max_message_bytes = 16 << 20;
  // Who may come; outlives the server. Null: anyone, wherever `host` is.
  const LinkSecurity* security = nullptr;
};

// Health services besides those of the server.
inline constexpr char kLivenessService[] = "liveness";
inline constexpr char kReadinessService[] = "readiness";

class RpcServer {
 public:
  // Services outlive the server. Without `live` the process counts as alive. UNAVAILABLE naming the address if it can
  // not be bound, INVALID_ARGUMENT if security refuses it.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const RpcServerOptions& options,
                                                          const std::vector<grpc::Service*>& services,
                                                          const std::vector<std::string>& service_names,
                                                          std::function<bool()> serving,
                                                          std::function<bool()> live = nullptr);
  ~RpcServer();
  RpcServer(const RpcServer&) = delete;
  RpcServer& operator=(const RpcServer&) = delete;

  int port() const { return port_; }
  // HOST:PORT (or unix:PATH) that others can reach: a wildcard host is replaced by this machine's name.
  std::string address() const;

  // Reports NOT_SERVING from now on, takes no new calls, and ends those open after `grace`; `serving` is not asked any
  // more once this returns. Idempotent; by one thread.
  void Shutdown(Duration grace);

 private:
  RpcServer(std::string host, std::vector<std::string> service_names, std::function<bool()> serving,
            std::function<bool()> live);
  void WatchHealth();

  const std::string host_;
  const std::vector<std::string> service_names_;
  const std::function<bool()> serving_;
  const std::function<bool()> live_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::thread health_thread_;

  Mutex mu_;
  CondVar stopped_changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace outrider
