#include "worker/rpc/registration_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/log.h"
#include "proto/cluster.grpc.pb.h"

namespace outrider {
namespace {

// Until the router names an interval, and while it can not be reached.
constexpr int kFirstIntervalMs = 250;
// Bounds on what a router may ask for.
constexpr int kIntervalMsMin = 20;
constexpr int kIntervalMsMax = 60'000;
constexpr std::chrono::milliseconds kCallTimeout(2'000);
constexpr int kKeepaliveTimeMs = 5'000;
constexpr int kKeepaliveTimeoutMs = 5'000;

}  // namespace

uint64_t NewIncarnation() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

RegistrationClient::RegistrationClient(Options options) : options_(std::move(options)) {
  thread_ = std::thread([this] { Run(); });
}

RegistrationClient::~RegistrationClient() {
  {
    MutexLock lock(mu_);
    stopped_ = true;
    if (open_call_ != nullptr) open_call_->TryCancel();
    changed_.NotifyAll();
  }
  thread_.join();
}

void RegistrationClient::Hurry() {
  MutexLock lock(mu_);
  hurry_ = true;
  changed_.NotifyAll();
}

void RegistrationClient::Run() {
  grpc::ChannelArguments arguments;
  // A router that restarts is back within a second: do not back off for minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // A router whose machine is gone is left after their sum, so that one that takes its address is found.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  const auto channel = grpc::CreateCustomChannel(
      options_.router_address, LinkCredentials(options_.security, options_.router_address), arguments);
  const auto stub = v1::Cluster::NewStub(channel);
  int interval_ms = kFirstIntervalMs;
  bool registered = false;
  bool told_failure = false;
  while (true) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
    {
      MutexLock lock(mu_);
      if (stopped_) return;
      hurry_ = false;
      open_call_ = &context;
    }
    v1::HeartbeatResponse response;
    const v1::HeartbeatRequest request = options_.status();
    const grpc::Status status = stub->Heartbeat(&context, request, &response);
    {
      MutexLock lock(mu_);
      open_call_ = nullptr;
      if (stopped_) return;
    }
    if (status.ok()) {
      if (!registered) LogInfo("registered with the router at ", options_.router_address);
      registered = true;
      told_failure = false;
      interval_ms = std::clamp<int>(static_cast<int>(std::min<uint32_t>(response.interval_ms(), kIntervalMsMax)),
                                    kIntervalMsMin, kIntervalMsMax);
      if (options_.on_response) options_.on_response(response);
    } else {
      // No news to who leaves itself: a cluster that ends may end its router first.
      if ((registered || !told_failure) && !request.draining()) {
        LogWarning("router at ", options_.router_address, " does not take the heartbeat: ", status.error_message());
      }
      registered = false;
      told_failure = true;
      interval_ms = std::min(interval_ms, kFirstIntervalMs);
    }
    MutexLock lock(mu_);
    const TimePoint next = std::chrono::steady_clock::now() + std::chrono::milliseconds(interval_ms);
    while (!stopped_ && !hurry_ && changed_.WaitUntil(mu_, next)) {
    }
    if (stopped_) return;
  }
}

}  // namespace outrider
