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
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/page_client.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

constexpr int kPollMs = 50;
// How often children are asked for their health, and what an answer may take.
constexpr Duration kProbeInterval = std::chrono::milliseconds(250);
constexpr Duration kProbeBound = std::chrono::milliseconds(700);
// Run's loop turns every kPollMs; a fork may take a while.
constexpr Duration kTurnMax = std::chrono::seconds(5);

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

// Asks children for their health from a thread of its own, so that Run never waits for one.
//
// Thread safety: all methods, from any thread.
class Supervisor::Prober {
 public:
  Prober() : thread_([this] { Run(); }) {}
  ~Prober() {
    {
      MutexLock lock(mu_);
      stopped_ = true;
      changed_.NotifyAll();
    }
    thread_.join();
  }

  // Whom to ask from now on.
  void Watch(std::map<pid_t, std::string> addresses) {
    MutexLock lock(mu_);
    addresses_ = std::move(addresses);
  }

  // What was heard last since the last call, with when.
  std::map<pid_t, std::pair<ChildWatch::Answer, TimePoint>> Take() {
    MutexLock lock(mu_);
    return std::exchange(answers_, {});
  }

 private:
  static ChildWatch::Answer AnswerOf(const absl::StatusOr<Page>& page) {
    if (!page.ok()) return ChildWatch::Answer::kNone;
    if (page->status == 200) return ChildWatch::Answer::kReady;
    return absl::StartsWith(page->body, "not live") ? ChildWatch::Answer::kNotLive : ChildWatch::Answer::kLive;
  }

  void Run() {
    while (true) {
      std::map<pid_t, std::string> addresses;
      {
        MutexLock lock(mu_);
        const TimePoint next = std::chrono::steady_clock::now() + kProbeInterval;
        while (!stopped_ && changed_.WaitUntil(mu_, next)) {
        }
        if (stopped_) return;
        addresses = addresses_;
      }
      std::vector<PageRequest> requests;
      for (const auto& [pid, address] : addresses) requests.push_back({address, "/readyz"});
      const auto pages = FetchPages(requests, kProbeBound);
      const TimePoint now = std::chrono::steady_clock::now();
      MutexLock lock(mu_);
      size_t i = 0;
      for (const auto& [pid, address] : addresses) answers_[pid] = {AnswerOf(pages[i++]), now};
    }
  }

  Mutex mu_;
  CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  std::map<pid_t, std::string> addresses_ ABSL_GUARDED_BY(mu_);
  std::map<pid_t, std::pair<ChildWatch::Answer, TimePoint>> answers_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

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
  added.policy = RestartPolicy(options_.seed + units_.size());
  units_.push_back(std::move(added));
}

void Supervisor::Stop() {
  const uint64_t one = 1;
  CHECK(::write(wake_fd_, &one, sizeof(one)) == sizeof(one));
}

absl::Status Supervisor::StartUnit(Unit& unit) {
  unit.started = std::chrono::steady_clock::now();
  unit.ending = false;
  unit.kill_at.reset();
  unit.well_since.reset();
  unit.was_ready = unit.crashed = false;
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
    unit.alive.emplace(
        pid, Child{process.name, process.health_address, ChildWatch(options_.watch, std::chrono::steady_clock::now())});
  }
  return absl::OkStatus();
}

void Supervisor::Signal(Unit& unit, int signal) {
  for (const auto& [pid, child] : unit.alive) ::kill(pid, signal);
}

bool Supervisor::AnyAlive() const {
  return std::any_of(units_.begin(), units_.end(), [](const Unit& unit) { return !unit.alive.empty(); });
}

absl::Status Supervisor::OnUnitEnded(Unit& unit, bool usage_error) {
  const TimePoint now = std::chrono::steady_clock::now();
  const bool is_watched = std::any_of(unit.plan.processes.begin(), unit.plan.processes.end(),
                                      [](const ProcessPlan& process) { return !process.health_address.empty(); });
  const Duration delay = unit.was_ready && !unit.crashed
                             ? kRestartDelayMin
                             : unit.policy.OnExit(is_watched ? unit.well_since.value_or(now) : unit.started, now);
  num_crashes_ += unit.crashed;
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
      if (!unit.ending) unit.last_exit = absl::StrCat(it->second.name, " ", DescribeExit(status));
      const bool usage_error = !unit.ending && WIFEXITED(status) && WEXITSTATUS(status) == kExitUsage;
      unit.crashed |= status != 0;
      // Who was told to end before it could heed it did as it was told.
      const bool was_starting = !it->second.health_address.empty() && !it->second.watch.answered() &&
                                WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM;
      if (stopping_ && status != 0 && !was_starting)
        bad_stops_.push_back(absl::StrCat(it->second.name, " ", DescribeExit(status)));
      unit.alive.erase(it);
      if (stopping_) break;
      if (!unit.ending && !unit.alive.empty()) {
        unit.ending = true;
        unit.kill_at = std::chrono::steady_clock::now() + (status == 0 ? options_.leave_bound : Duration::zero());
        if (status != 0) Signal(unit, SIGKILL);
      }
      if (usage_error && !ready_) return OnUnitEnded(unit, true);
      if (unit.alive.empty() && result.ok()) result = OnUnitEnded(unit, false);
      break;
    }
  }
  return result;
}

std::map<std::string, int> Supervisor::Restarts() const {
  MutexLock lock(mu_);
  return restarts_;
}

bool Supervisor::IsHealthy() const {
  const Duration since_start = std::chrono::steady_clock::now().time_since_epoch();
  return since_start - std::chrono::nanoseconds(turned_at_ns_.load()) < kTurnMax;
}

void Supervisor::LookAtChildren(TimePoint now) {
  std::map<pid_t, std::string> watched;
  for (Unit& unit : units_) {
    for (const auto& [pid, child] : unit.alive) {
      if (!child.health_address.empty()) watched[pid] = child.health_address;
    }
    if (unit.kill_at && now >= *unit.kill_at) Signal(unit, SIGKILL);
  }
  if (watched.empty()) return;
  if (prober_ == nullptr) prober_ = std::make_unique<Prober>();
  for (const auto& [pid, heard] : prober_->Take()) {
    for (Unit& unit : units_) {
      const auto child = unit.alive.find(pid);
      if (child == unit.alive.end() || unit.ending) continue;
      child->second.watch.Heard(heard.first, heard.second);
      if (!child->second.watch.Hangs()) continue;
      ++num_hangs_;
      unit.crashed = true;
      LogWarning(child->second.name, " hangs: its health page has said nothing good for too long; ", unit.plan.name,
                 " is killed");
      unit.last_exit = absl::StrCat(child->second.name, " hung");
      unit.ending = true;
      Signal(unit, SIGKILL);
    }
  }
  for (Unit& unit : units_) {
    if (unit.ending) continue;
    std::optional<TimePoint> well_since;
    bool all_ready = !unit.alive.empty();
    for (const auto& [pid, child] : unit.alive) {
      if (child.health_address.empty()) continue;
      const std::optional<TimePoint> ready_since = child.watch.ready_since();
      all_ready &= ready_since.has_value();
      if (ready_since) well_since = std::max(well_since.value_or(*ready_since), *ready_since);
    }
    unit.well_since = all_ready ? well_since : std::nullopt;
    unit.was_ready |= unit.well_since.has_value();
  }
  prober_->Watch(std::move(watched));
}

absl::Status Supervisor::Run() {
  for (Unit& unit : units_) RETURN_IF_ERROR(StartUnit(unit));
  while (true) {
    turned_at_ns_ = std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
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
    LookAtChildren(now);
    for (Unit& unit : units_) {
      if (unit.alive.empty() && now >= unit.restart_at) {
        ++num_restarts_;
        {
          MutexLock lock(mu_);
          ++restarts_[unit.plan.name];
        }
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
  const TimePoint told_at = std::chrono::steady_clock::now();
  TimePoint bound = told_at + options_.drain_bound;
  bool told_others = false;
  if (!units_.empty()) Signal(units_[0], SIGTERM);
  while (AnyAlive()) {
    pollfd fd{signal_fd_, POLLIN, 0};
    ::poll(&fd, 1, kPollMs);
    signalfd_siginfo info;
    const TimePoint now = std::chrono::steady_clock::now();
    bool again = false;
    while (::read(signal_fd_, &info, sizeof(info)) == sizeof(info)) {
      again |= info.ssi_signo != SIGCHLD && now - told_at >= options_.same_signal_bound;
    }
    Reap().IgnoreError();
    if (again || (told_others && now >= bound)) {
      for (const Unit& unit : units_) {
        for (const auto& [pid, child] : unit.alive) bad_stops_.push_back(absl::StrCat(child.name, " had to be killed"));
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
    for (const auto& [pid, child] : unit.alive) ::waitpid(pid, nullptr, 0);
    unit.alive.clear();
  }
}

}  // namespace outrider
