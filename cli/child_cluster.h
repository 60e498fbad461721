// A cluster of its own for one command: `outrider serve` as a child that ends with its parent.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/cluster_plan.h"

namespace outrider {

class ChildCluster {
 public:
  // Starts it and waits until it is ready. Errors carry the child's last lines of log. Ports of 0 are free ones.
  static absl::StatusOr<std::unique_ptr<ChildCluster>> Start(const ClusterOptions& options);
  // SIGTERM, then SIGKILL after a bound.
  ~ChildCluster();
  ChildCluster(const ChildCluster&) = delete;
  ChildCluster& operator=(const ChildCluster&) = delete;

  const std::string& grpc_address() const { return grpc_address_; }

 private:
  explicit ChildCluster(pid_t pid) : pid_(pid) {}
  pid_t pid_;
  std::string grpc_address_;
};

}  // namespace outrider
