#include "router/router_main.h"

#include <sys/resource.h>

#include <chrono>
#include <future>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/atomic_file.h"
#include "base/log.h"
#include "base/scheduling.h"
#include "base/status_macros.h"
#include "base/termination.h"
#include "router/router_server.h"

namespace outrider {
namespace {

constexpr std::chrono::milliseconds kPoll(20);
// For what is ended by force to reach its clients.
constexpr std::chrono::milliseconds kLastWords(500);

// Each connection takes a descriptor, and the usual soft limit of 1024 is for programs that use select().
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

absl::Status RunRouter(const v1::RouterConfig& config) {
  // Before the first thread is started. It computes little, and what it says is waited for: on processors that it
  // shares with ranks, refusals and tokens must not wait for their slices.
  UseShortSlices();
  TerminationWatcher termination;
  SetLogProcess("router");
  RaiseDescriptorLimit();
  RETURN_IF_ERROR(SetLogFormat(config.log_format()));

  ASSIGN_OR_RETURN(const std::unique_ptr<router::RouterServer> server, router::RouterServer::Start(config));
  std::promise<void> told;
  termination.OnSignal([&told] { told.set_value(); });
  if (!config.address_file().empty()) {
    RETURN_IF_ERROR(WriteFileAtomically(
        config.address_file(),
        absl::StrCat("grpc=", server->grpc_address(), " metrics=", server->metrics_address(),
                     " http=", server->http_address(), config.cluster_host().empty() ? "" : " cluster=",
                     config.cluster_host().empty() ? "" : server->cluster_address(), "\n")));
  }

  told.get_future().wait();
  LogInfo("told to end: ", server->num_open_calls(), " requests are open, nothing new is taken");
  server->StartDrain();
  const auto wait_for_calls = [&](std::chrono::milliseconds at_most) {
    const auto deadline = std::chrono::steady_clock::now() + at_most;
    while (server->num_open_calls() > 0 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(kPoll);
    }
  };
  wait_for_calls(std::chrono::milliseconds(config.drain_timeout_ms()));
  if (server->num_open_calls() > 0) {
    LogWarning(server->num_open_calls(), " requests did not end within drain_timeout_ms = ", config.drain_timeout_ms());
    server->EndOpenCalls();
    wait_for_calls(kLastWords);
  }
  return absl::OkStatus();
}

}  // namespace outrider
