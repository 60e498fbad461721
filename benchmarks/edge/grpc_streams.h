// Clients over gRPC, by the callback API, each with a few connections of its own.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "benchmarks/edge/stream_load.h"
#include "proto/inference.grpc.pb.h"

namespace outrider::edge {

class GrpcClients {
 public:
  // Streams take the connections by turns.
  GrpcClients(const std::string& address, int num_connections);

  // Blocks until every stream has ended. From one thread at a time.
  StreamFigures Run(const StreamLoad& load);

 private:
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
};

}  // namespace outrider::edge
