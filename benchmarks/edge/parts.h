// The parts that edge_bench runs as processes of their own: routers, one fake engine for all of them, one bare server.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "benchmarks/edge/child_process.h"

namespace outrider::edge {

// main() of a part, where `arguments` begin with "--part"; does not return then. Otherwise nothing happens.
void RunPartIfAsked(const std::vector<std::string>& arguments);

struct RouterOptions {
  int num_groups = 2;
  int num_draft_workers = 0;
  // Lines of 1 KB by a thread of the router's, through its log; and its ledger (request_log) is written.
  int log_bytes_per_second = 0;
};

// A router that serves.
struct RunningRouter {
  std::unique_ptr<ChildProcess> process;
  std::string grpc_address, http_address;
  std::string log;  // path
};

class Parts {
 public:
  // Files go to `folder`. Routers reach the engine by TCP, or by a socket of the file system.
  Parts(std::string folder, bool engine_by_tcp);

  const std::string& bare_address() const { return bare_address_; }
  ChildProcess& bare() { return *bare_; }
  const std::string& engine_address() const { return engine_address_; }
  ChildProcess& engine() { return *engine_; }
  // Ends the process if the router does not serve within 20 s.
  RunningRouter StartRouter(const RouterOptions& options);

 private:
  const std::string folder_;
  std::unique_ptr<ChildProcess> bare_, engine_;
  std::string bare_address_, engine_address_;
  int num_routers_ = 0;
};

}  // namespace outrider::edge
