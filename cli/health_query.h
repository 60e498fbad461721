// Asks a process whether it lives and takes work: its pages over HTTP, or the health service of its gRPC server.
#pragma once

#include <memory>
#include <string>

#include "base/clock.h"

namespace grpc {
class ChannelCredentials;
}  // namespace grpc

namespace outrider {

struct HealthAnswer {
  std::string address;
  bool live = false;
  bool ready = false;
  std::string reason;  // why not live or not ready, as the process said it, or why it was not heard; empty if ready
};

// /livez and /readyz of the metrics port. `address`: HOST:PORT or unix:PATH.
HealthAnswer QueryHealthPages(const std::string& address, Duration bound);

// grpc.health.v1.Health/Check, services "liveness" and then `service` (empty: the server as a whole). A server without
// a service "liveness", such as one that is not of this project, counts as live when it answers.
HealthAnswer QueryHealthService(const std::string& address,
                                const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                const std::string& service, Duration bound);

// {"address", "live", "ready", "reason"}
std::string HealthJson(const HealthAnswer& answer);

}  // namespace outrider
