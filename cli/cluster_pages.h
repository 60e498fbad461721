// ClusterPages makes the pages of a whole cluster from those of its processes: /metrics has every child's series with
// the labels process, group and rank; /livez and /readyz speak for the supervisor and for the cluster.
//
// All children are asked at once and together take kScrapeBound at most: one that hangs, or is being started, is left
// out and shown as outrider_process_up 0.
//
// Thread safety: pages are made by one thread; the rest from any.
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/page_server.h"
#include "cli/cluster_plan.h"
#include "cli/supervisor.h"

namespace outrider {

inline constexpr Duration kScrapeBound = std::chrono::milliseconds(500);

class ClusterPages {
 public:
  // `supervisor` outlives this.
  ClusterPages(const std::vector<UnitPlan>& units, const Supervisor& supervisor);

  // For PageServer; this outlives it.
  std::map<std::string, PageServer::MakePage> Pages();

  void MarkReady() { ready_ = true; }

 private:
  struct Process {
    std::string name;
    std::string address;
    std::vector<std::pair<std::string, std::string>> labels;
    Gauge up;
  };
  Page Metrics();
  Page Liveness() const;
  Page Readiness() const;

  const Supervisor& supervisor_;
  MetricsRegistry registry_;
  std::vector<Process> processes_;
  std::map<std::string, Counter> restarts_;  // by unit
  Counter hangs_;
  Counter crashes_;
  std::atomic<bool> ready_{false};
};

}  // namespace outrider
