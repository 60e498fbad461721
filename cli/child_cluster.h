// A cluster of its own for one command: `outrider serve` as a child that ends with its parent.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/cluster_plan.h"

namespace outrider {

// How a cluster stands to the terminal of its parent.
struct ChildTerminal {
  // It has a process group of its own: Ctrl-C is the parent's alone.
  bool own_process_group = false;
  // Its log goes to this file, made anew; empty: to the parent's standard error.
  std::string log_file = {};
};

class ChildCluster {
 public:
  // Starts it and waits until it is ready. Ports of 0 are free ones. `program` is the outrider binary: this one, or
  // another in tests. Errors: UNAVAILABLE when it ends before it is ready; its log says why.
  static absl::StatusOr<std::unique_ptr<ChildCluster>> Start(const ClusterOptions& options,
                                                             const std::string& program = "/proc/self/exe",
                                                             const ChildTerminal& terminal = {});
  // Stops it as Stop does, if that was not done.
  ~ChildCluster();
  ChildCluster(const ChildCluster&) = delete;
  ChildCluster& operator=(const ChildCluster&) = delete;

  // SIGTERM, then SIGKILL after a bound. True if it ended in order, all of its processes with exit code 0.
  bool Stop();

  pid_t pid() const { return pid_; }
  const std::string& grpc_address() const { return grpc_address_; }
  const std::string& metrics_address() const { return metrics_address_; }
  const std::string& http_address() const { return http_address_; }

 private:
  explicit ChildCluster(pid_t pid) : pid_(pid) {}
  pid_t pid_;  // 0 once stopped
  std::string grpc_address_;
  std::string metrics_address_;
  std::string http_address_;
};

}  // namespace outrider
