#include "base/termination.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <optional>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/mutex.h"

namespace outrider {
namespace {

constexpr int kSecondSignalExitCode = 130;

sigset_t Signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

struct TerminationWatcher::State {
  explicit State(Duration bound) : same_signal_bound(bound) {}

  const Duration same_signal_bound;
  std::thread thread;
  Mutex action_mu;  // held while the action runs; before mu
  std::function<void()> action ABSL_GUARDED_BY(action_mu);
  Mutex mu;
  bool stopped ABSL_GUARDED_BY(mu) = false;

  void Watch() {
    const sigset_t set = Signals();
    std::optional<TimePoint> told_at;
    while (true) {
      // Looks up now and then, to see whether it is still wanted.
      const timespec patience{.tv_sec = 0, .tv_nsec = 100'000'000};
      const int signal = sigtimedwait(&set, nullptr, &patience);
      {
        MutexLock lock(mu);
        if (stopped) return;
      }
      if (signal < 0) continue;
      const TimePoint now = std::chrono::steady_clock::now();
      if (told_at.has_value()) {
        if (now - *told_at < same_signal_bound) continue;
        LogWarning("second signal: ending at once");
        _exit(kSecondSignalExitCode);
      }
      told_at = now;
      MutexLock lock(action_mu);
      if (!action) {
        LogInfo("told to end before serving");
        _exit(0);
      }
      action();
    }
  }
};

TerminationWatcher::TerminationWatcher(Duration same_signal_bound)
    : state_(std::make_shared<State>(same_signal_bound)) {
  const sigset_t set = Signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  state_->thread = std::thread([state = state_.get()] { state->Watch(); });
}

TerminationWatcher::~TerminationWatcher() {
  {
    MutexLock lock(state_->mu);
    state_->stopped = true;
  }
  state_->thread.join();
}

void TerminationWatcher::OnSignal(std::function<void()> action) {
  MutexLock lock(state_->action_mu);
  state_->action = std::move(action);
}

}  // namespace outrider
