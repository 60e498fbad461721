#include "cli/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

constexpr int kPollMs = 50;

sigset_t SupervisedSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGCHLD);
  return set;
}

std::string DescribeExit(int status) {
  if (WIFSIGNALED(status)) return absl::StrCat("killed by signal ", WTERMSIG(status));
  return absl::StrCat("exited with code ", WEXITSTATUS(status));
}

}  // namespace

void Supervisor::BlockSignals() {
  const sigset_t set = SupervisedSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

Supervisor::Supervisor(SupervisorOptions options) : options_(std::move(options)) {
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  const sigset_t set = SupervisedSignals();
  signal_fd_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  CHECK(wake_fd_ >= 0 && signal_fd_ >= 0);
}

Supervisor::~Supervisor() {
  KillAll();
  ::close(wake_fd_);
  ::close(signal_fd_);
}

void Supervisor::Add(UnitPlan unit) {
  Unit added;
  added.plan = std::move(unit);
  units_.push_back(std::move(added));
}

void Supervisor::Stop() {
  const uint64_t one = 1;
  CHECK(::write(wake_fd_, &one, sizeof(one)) == sizeof(one));
}

absl::Status Supervisor::StartUnit(Unit& unit) {
  unit.started = std::chrono::steady_clock::now();
  unit.ending = false;
  const pid_t parent = ::getpid();
  for (const ProcessPlan& process : unit.plan.processes) {
    // Everything the child needs is made here: between fork and exec it may only make system calls.
    std::vector<char*> argv = {const_cast<char*>(options_.program.c_str())};
    for (const std::string& arg : process.args) argv.push_back(const_cast<char*>(arg.c_str()));
    argv.push_back(nullptr);
    const sigset_t set = SupervisedSignals();
    const pid_t pid = ::fork();
    if (pid < 0) return absl::UnavailableError(absl::StrCat("fork for ", process.name, ": ", std::strerror(errno)));
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(1);  // it died before the line above
      ::setpgid(0, 0);                        // a Ctrl-C at the terminal is the supervisor's to handle
      ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
      ::dup2(STDERR_FILENO, STDOUT_FILENO);  // standard output is the supervisor's alone
      const int null = ::open("/dev/null", O_RDONLY);
      if (null >= 0) ::dup2(null, STDIN_FILENO);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    unit.alive[pid] = process.name;
  }
  return absl::OkStatus();
}

void Supervisor::Signal(Unit& unit, int signal) {
  for (const auto& [pid, name] : unit.alive) ::kill(pid, signal);
}

bool Supervisor::AnyAlive() const {
  return std::any_of(units_.begin(), units_.end(), [](const Unit& unit) { return !unit.alive.empty(); });
}

absl::Status Supervisor::OnUnitEnded(Unit& unit, bool usage_error) {
  const TimePoint now = std::chrono::steady_clock::now();
  const Duration delay = unit.policy.OnExit(unit.started, now);
  if (!ready_ && (usage_error || unit.policy.num_early_exits() >= options_.max_early_exits)) {
    return absl::UnavailableError(
        absl::StrCat(unit.plan.name, " can not be started: ", unit.last_exit, "; its log above says why"));
  }
  unit.restart_at = now + delay;
  LogWarning(unit.plan.name, " ended (", unit.last_exit, "); starting it again in ", ToMillis(delay), " ms");
  return absl::OkStatus();
}

absl::Status Supervisor::Reap() {
  int status;
  pid_t pid;
  absl::Status result;
  while ((pid = ::waitpid(-1, &status, WNOHANG)) > 0) {
    for (Unit& unit : units_) {
      const auto it = unit.alive.find(pid);
      if (it == unit.alive.end()) continue;
      if (!unit.ending) unit.last_exit = absl::StrCat(it->second, " ", DescribeExit(status));
      const bool usage_error = !unit.ending && WIFEXITED(status) && WEXITSTATUS(status) == kExitUsage;
      if (stopping_ && status != 0) bad_stops_.push_back(absl::StrCat(it->second, " ", DescribeExit(status)));
      unit.alive.erase(it);
      if (stopping_) break;
      if (!unit.ending && !unit.alive.empty()) {
        unit.ending = true;
        Signal(unit, SIGKILL);
      }
      if (usage_error && !ready_) return OnUnitEnded(unit, true);
      if (unit.alive.empty() && result.ok()) result = OnUnitEnded(unit, false);
      break;
    }
  }
  return result;
}

absl::Status Supervisor::Run() {
  for (Unit& unit : units_) RETURN_IF_ERROR(StartUnit(unit));
  while (true) {
    pollfd fds[] = {{wake_fd_, POLLIN, 0}, {signal_fd_, POLLIN, 0}};
    ::poll(fds, 2, kPollMs);
    bool stop = (fds[0].revents & POLLIN) != 0;
    signalfd_siginfo info;
    while (::read(signal_fd_, &info, sizeof(info)) == sizeof(info)) stop |= info.ssi_signo != SIGCHLD;
    if (stop) return StopInOrder();
    if (const absl::Status status = Reap(); !status.ok()) {
      KillAll();
      return status;
    }
    const TimePoint now = std::chrono::steady_clock::now();
    for (Unit& unit : units_) {
      if (unit.alive.empty() && now >= unit.restart_at) {
        ++num_restarts_;
        if (const absl::Status status = StartUnit(unit); !status.ok()) {
          LogError(status.message());
          unit.restart_at = now + kRestartDelayMax;
          Signal(unit, SIGKILL);
        }
      }
    }
  }
}

absl::Status Supervisor::StopInOrder() {
  stopping_ = true;
  TimePoint bound = std::chrono::steady_clock::now() + options_.drain_bound;
  bool told_others = false;
  if (!units_.empty()) Signal(units_[0], SIGTERM);
  while (AnyAlive()) {
    pollfd fd{signal_fd_, POLLIN, 0};
    ::poll(&fd, 1, kPollMs);
    signalfd_siginfo info;
    bool again = false;
    while (::read(signal_fd_, &info, sizeof(info)) == sizeof(info)) again |= info.ssi_signo != SIGCHLD;
    Reap().IgnoreError();
    const TimePoint now = std::chrono::steady_clock::now();
    if (again || (told_others && now >= bound)) {
      for (const Unit& unit : units_) {
        for (const auto& [pid, name] : unit.alive) bad_stops_.push_back(absl::StrCat(name, " had to be killed"));
      }
      KillAll();
    } else if (!told_others && (units_[0].alive.empty() || now >= bound)) {
      for (Unit& unit : units_) Signal(unit, SIGTERM);
      told_others = true;
      bound = now + options_.stop_bound;
    }
  }
  if (bad_stops_.empty()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("stopped, but not in order: ", absl::StrJoin(bad_stops_, ", ")));
}

void Supervisor::KillAll() {
  stopping_ = true;
  for (Unit& unit : units_) Signal(unit, SIGKILL);
  for (Unit& unit : units_) {
    for (const auto& [pid, name] : unit.alive) ::waitpid(pid, nullptr, 0);
    unit.alive.clear();
  }
}

}  // namespace outrider
