#include "router/router_main.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "router/router_server.h"

namespace outrider {
namespace {

constexpr long kPollNs = 20'000'000;
constexpr int kExitSecondSignal = 1;
// For what is ended by force to reach its clients.
constexpr std::chrono::milliseconds kLastWords(500);

// Readers see either no file or all of it.
absl::Status WriteAtomically(const std::string& path, const std::string& content) {
  const std::string draft = absl::StrCat(path, ".", ::getpid(), ".tmp");
  const int fd = ::open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  bool ok = fd >= 0 && ::write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size());
  const int error = errno;
  if (fd >= 0) ok &= ::close(fd) == 0;
  if (ok && ::rename(draft.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const int last_error = ok ? errno : error;
  ::unlink(draft.c_str());
  return absl::UnavailableError(
      absl::StrCat("address_file ", path, " can not be written: ", std::strerror(last_error)));
}

}  // namespace

absl::Status RunRouter(const v1::RouterConfig& config) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  SetLogProcess("router");
  RETURN_IF_ERROR(SetLogFormat(config.log_format()));

  ASSIGN_OR_RETURN(const std::unique_ptr<router::RouterServer> server, router::RouterServer::Start(config));
  if (!config.address_file().empty()) {
    RETURN_IF_ERROR(WriteAtomically(config.address_file(), absl::StrCat("grpc=", server->grpc_address(),
                                                                        " metrics=", server->metrics_address(), "\n")));
  }

  int signal = 0;
  while (::sigwait(&signals, &signal) != 0) {
  }
  LogInfo("got ", ::strsignal(signal), "; ", server->num_open_calls(), " requests are open, nothing new is taken");
  server->StartDrain();
  const auto wait_for_calls = [&](std::chrono::milliseconds at_most) {
    const auto deadline = std::chrono::steady_clock::now() + at_most;
    while (server->num_open_calls() > 0 && std::chrono::steady_clock::now() < deadline) {
      const timespec poll{.tv_sec = 0, .tv_nsec = kPollNs};
      if (::sigtimedwait(&signals, nullptr, &poll) > 0) {
        LogWarning("got a second signal; ", server->num_open_calls(), " requests are dropped");
        ::_exit(kExitSecondSignal);
      }
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
