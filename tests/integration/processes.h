// Processes of a cluster started one by one, for tests that kill, stop and end them: a router and target groups of one
// rank, each the real program, without a supervisor.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/integration/process_fixture.h"

namespace outrider {

// As a shell says it: the exit code, or 128 + the signal that ended it.
int ExitCode(int wait_status);

class Processes {
 public:
  // `settings` go to the router as flags.
  explicit Processes(const std::vector<std::string>& settings = {});

  // Starts a target group, or one that has ended or was taken again, and returns at once. Ranks after the first are
  // groups by the name GROUP/RANK here; ranks_apart: they are on other hosts than the first (Process).
  void StartGroup(const std::string& group_id, int threads = 1, int num_ranks = 1, bool ranks_apart = false);
  // The same of a draft worker, a group by its id here.
  void StartDraftWorker(const std::string& worker_id);
  // A process that lives on, beside the one that is started in its place next.
  struct Past {
    std::unique_ptr<Process> process;
    std::string metrics_file;
    double Metric(const std::string& prefix) const;
  };
  Past Take(const std::string& name);
  // Waits until so many groups serve. False if they do not within 60 s.
  bool AwaitGroups(int num_groups);

  Process& router() { return *router_; }
  Process& group(const std::string& group_id) { return *groups_.at(group_id); }
  const std::string& grpc_address() const { return grpc_address_; }
  // Of the metrics page; -1 if there is none.
  double RouterMetric(const std::string& prefix) const;
  double GroupMetric(const std::string& group_id, const std::string& prefix) const;
  // The router's ledger.
  std::string request_log() const { return folder_ + "requests.jsonl"; }

 private:
  const std::string folder_;
  std::unique_ptr<Process> router_;
  std::string grpc_address_;
  std::string metrics_address_;
  void StartWorker(const std::string& name, int threads, std::vector<std::string> args, bool apart = false);

  std::map<std::string, std::unique_ptr<Process>> groups_;
  std::map<std::string, std::string> address_files_;  // of the latest of each
  int num_started_ = 0;
};

}  // namespace outrider
