// RegistrationClient announces a worker to the router and renews it: one heartbeat each interval the router asks for,
// from a thread of its own. The first heartbeat and the thousandth carry the same, so a router that restarted learns of
// the worker by the next one, and processes may start in any order.
//
// Thread safety: all methods, from any thread. The callbacks are called from the client's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/mutex.h"
#include "proto/cluster.pb.h"
#include "security/link_security.h"

namespace grpc {
class ClientContext;
}  // namespace grpc

namespace outrider {

class RegistrationClient {
 public:
  struct Options {
    std::string router_address;
    // How to show who this is; outlives this. Null: openly.
    const LinkSecurity* security = nullptr;
    // What to say now.
    std::function<v1::HeartbeatRequest()> status;
    // What the router said. Optional.
    std::function<void(const v1::HeartbeatResponse&)> on_response;
  };
  explicit RegistrationClient(Options options);
  // Stops at once: an open call is cancelled.
  ~RegistrationClient();
  RegistrationClient(const RegistrationClient&) = delete;
  RegistrationClient& operator=(const RegistrationClient&) = delete;

  // Sends a heartbeat now, as when draining begins.
  void Hurry();

 private:
  void Run();

  const Options options_;
  std::thread thread_;

  Mutex mu_;
  CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  bool hurry_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ClientContext* open_call_ ABSL_GUARDED_BY(mu_) = nullptr;
};

// A number that rises with each start of a process on one machine: microseconds of the system clock.
uint64_t NewIncarnation();

}  // namespace outrider
