// What the engine alone takes: one stream to it as a router has, requests on it at the times of a load, and the time of
// each to its first event. With a bare call's it is the least that a call through any router could take.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "benchmarks/edge/stream_load.h"
#include "proto/target.grpc.pb.h"

namespace outrider::edge {

class EngineStream {
 public:
  explicit EngineStream(const std::string& engine_address);
  ~EngineStream();

  // Blocks until every request has ended. From one thread at a time.
  StreamFigures Run(const StreamLoad& load);

 private:
  class Reactor;
  std::unique_ptr<v1::Target::Stub> stub_;
  std::unique_ptr<Reactor> reactor_;
};

}  // namespace outrider::edge
