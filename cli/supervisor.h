// Supervisor starts child processes, starts them again when they end, and takes all of them down with itself.
//
// A unit is a set of processes that live and die together (the ranks of a group): when one ends, the others are killed
// and all start anew, after a delay that grows while they keep ending (restart_policy.h). One that was ready and ended
// in order, as after SIGTERM, starts again without growing it. A child dies when its supervisor does, by whatever cause
// (PR_SET_PDEATHSIG), so nothing outlives a kill -9. A unit one of whose processes hangs (child_watch.h, by its health
// page) is killed and started anew like one that ended.
//
// Thread safety: Add and Run from one thread, which must live as long as the children; the others from any.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/termination.h"  // kSameSignalBound
#include "cli/child_watch.h"
#include "cli/cluster_plan.h"  // UnitPlan
#include "cli/restart_policy.h"

namespace outrider {

struct SupervisorOptions {
  std::string program;                              // path of the binary every process runs
  Duration drain_bound = std::chrono::seconds(30);  // the first unit's time to end after SIGTERM; a drain takes 25 s
  Duration stop_bound = std::chrono::seconds(5);    // then the others', before SIGKILL
  // A unit that ends so often in a row before MarkReady ends Run with its error; also the first end with kExitUsage.
  int max_early_exits = 3;
  // The rest of a unit has so long to end by itself once one of it ended with code 0, as after SIGTERM; else none.
  Duration leave_bound = std::chrono::seconds(5);
  Duration same_signal_bound = kSameSignalBound;
  ChildWatch::Options watch;
  // Of the delays before restarts.
  uint64_t seed = 0;
};

// The exit code of a process whose settings are wrong: starting it again can not help.
inline constexpr int kExitUsage = 2;

class Supervisor {
 public:
  explicit Supervisor(SupervisorOptions options);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Units start in this order and the first is stopped first. REQUIRES: before Run.
  void Add(UnitPlan unit);

  // Starts everything and supervises until SIGTERM, SIGINT or Stop(). OK after an orderly stop: all children are gone.
  // A second signal, later than options.same_signal_bound, kills at once. UNAVAILABLE when a unit could not be brought
  // up (options.max_early_exits). REQUIRES: BlockSignals() was called before any other thread started.
  absl::Status Run();

  // From here on every unit is restarted without end.
  void MarkReady() { ready_ = true; }

  // Ends Run in order.
  void Stop();

  // How often units were started again, and how often one was killed because a process of it hung.
  int num_restarts() const { return num_restarts_; }
  int num_hangs() const { return num_hangs_; }
  // Units that ended other than in order (all processes with code 0), hangs included.
  int num_crashes() const { return num_crashes_; }
  // By unit.
  std::map<std::string, int> Restarts() const;
  // Run's loop turns.
  bool IsHealthy() const;

  // Blocks SIGTERM, SIGINT and SIGCHLD in the calling thread, so that Run can take them one by one.
  static void BlockSignals();

 private:
  struct Child {
    std::string name;
    std::string health_address;  // empty: not watched
    ChildWatch watch;
  };
  struct Unit {
    UnitPlan plan;
    RestartPolicy policy;
    std::map<pid_t, Child> alive;
    TimePoint started;
    TimePoint restart_at;              // while nothing is alive
    bool ending = false;               // the rest of it is to end
    std::optional<TimePoint> kill_at;  // and is killed then
    // Since when all of it that is watched is ready, as of the last look; nothing while it is not.
    std::optional<TimePoint> well_since;
    bool was_ready = false;  // since it was started
    bool crashed = false;    // a process of it ended with other than 0, or hung
    std::string last_exit;
  };
  class Prober;
  absl::Status StartUnit(Unit& unit);
  absl::Status Reap();
  absl::Status OnUnitEnded(Unit& unit, bool usage_error);
  void Signal(Unit& unit, int signal);
  void KillAll();
  absl::Status StopInOrder();
  bool AnyAlive() const;
  // Takes in what was heard of children and kills units that hang or do not leave.
  void LookAtChildren(TimePoint now);

  const SupervisorOptions options_;
  std::vector<Unit> units_;
  int wake_fd_ = -1;    // eventfd: Stop
  int signal_fd_ = -1;  // signalfd: SIGTERM, SIGINT, SIGCHLD
  bool stopping_ = false;
  std::vector<std::string> bad_stops_;  // what did not end in order when asked to
  std::unique_ptr<Prober> prober_;
  std::atomic<bool> ready_{false};
  std::atomic<int> num_restarts_{0};
  std::atomic<int> num_hangs_{0};
  std::atomic<int> num_crashes_{0};
  std::atomic<int64_t> turned_at_ns_{0};
  mutable Mutex mu_;
  std::map<std::string, int> restarts_ ABSL_GUARDED_BY(mu_);
};

}  // namespace outrider
