// Looks at this host for `outrider doctor`.
#pragma once

#include <string>
#include <vector>

#include "cli/host_diagnosis.h"

namespace outrider {

struct HostQuestions {
  std::string host = "127.0.0.1";
  int grpc_port = 9000;            // 0: not asked
  int http_port = 8000;            // 0: not asked
  int metrics_port = 9100;         // 0: not asked
  std::vector<std::string> peers;  // HOST:PORT
  double peer_timeout_s = 2;
};

// Takes no longer than the peers' time-outs and a driver's start. What can not be found out is as if it were absent.
HostFacts LookAtHost(const HostQuestions& questions);

}  // namespace outrider
